"""A disk in memory that keeps the promises of a real one, and no more.

It logs what was done, so that power can fail after any step: `crash_states` gives what
could then be found, by the rules that file systems allow: data that was not synced is
there, or not, or cut, or in another order, or, where the file grew, zeros or garbage;
entries of the folder that were not synced are there or not. It can be given a room, and
calls that fail.
"""

import errno
import itertools
import os
import random
from collections import Counter

from ampd.storage.disk import Disk

SECTOR = 512


class MemoryDisk(Disk):
    def __init__(self, files=None, *, room=None, fail=None):
        self.inodes = {}
        self.names_of = {}
        for name, data in (files or {}).items():
            self.names_of[name] = self._inode(data)
        self.begin = self.files()
        self.log = []
        self.open_fds = {}
        self.room = room
        self.fail = fail or {}
        self.calls = Counter()

    def _inode(self, data=b""):
        ino = len(self.inodes)
        self.inodes[ino] = bytearray(data)
        return ino

    def _call(self, what):
        self.calls[what] += 1
        error = self.fail.get((what, self.calls[what])) or self.fail.get((what, "all"))
        if error:
            raise OSError(error, os.strerror(error))

    def used(self):
        return sum(len(self.inodes[i]) for i in set(self.names_of.values()))

    def files(self):
        return {name: bytes(self.inodes[ino]) for name, ino in self.names_of.items()}

    def _named(self, path):
        try:
            return self.names_of[path.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path)) from None

    # -- what Disk promises ------------------------------------------------------------

    def make_folder(self, folder):
        pass

    def names(self, folder):
        return sorted(self.names_of)

    def create(self, path):
        self._call("create")
        if path.name in self.names_of:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        ino = self.names_of[path.name] = self._inode()
        self.log.append(("create", path.name, ino))
        return self._fd(ino)

    def open(self, path):
        self._call("open")
        return self._fd(self._named(path))

    def _fd(self, ino):
        fd = 1000 + len(self.open_fds)
        self.open_fds[fd] = ino
        return fd

    def identity(self, fd):
        return str(self.open_fds[fd])

    def close(self, fd):
        assert self.open_fds[fd] is not None, "closed twice"
        self.open_fds[fd] = None

    def read(self, path, start, size):
        return bytes(self.inodes[self._named(path)][start : start + size])

    def size(self, path):
        return len(self.inodes[self._named(path)])

    def write(self, fd, data, start):
        self._call("write")
        ino = self.open_fds[fd]
        content = self.inodes[ino]
        if self.room is not None:
            free = max(0, self.room - self.used())
            data = data[: max(0, len(content) - start) + free]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _apply(content, ("write", start, bytes(data)))
        self.log.append(("write", ino, start, bytes(data)))
        return len(data)

    def truncate(self, fd, size):
        self._call("truncate")
        ino = self.open_fds[fd]
        _apply(self.inodes[ino], ("truncate", size))
        self.log.append(("truncate", ino, size))

    def allocate(self, fd, size):
        content = self.inodes[self.open_fds[fd]]
        if self.room is not None and self.used() + size - len(content) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        content.extend(bytes(size - len(content)))

    def sync(self, fd):
        self._call("sync")
        self.log.append(("sync", self.open_fds[fd]))

    def sync_folder(self, folder):
        self._call("sync_folder")
        self.log.append(("sync_folder",))

    def rename(self, source, target):
        self._call("rename")
        self.names_of[target.name] = self._named(source)
        del self.names_of[source.name]
        self.log.append(("rename", source.name, target.name))

    def unlink(self, path):
        self._call("unlink")
        self._named(path)
        del self.names_of[path.name]
        self.log.append(("unlink", path.name))

    # -- what a power failure leaves -----------------------------------------------------

    def crash_states(self, steps, rng):
        """What may be found when power fails after the first `steps` entries of the log."""
        durable, pending, entries, moves = self._replay(steps)
        seen = set()
        for content, names in itertools.product(
            list(_contents(durable, pending, rng)), list(_namings(entries, moves))
        ):
            state = {n: content[i] for n, i in names.items()}
            key = hash(tuple(sorted(state.items())))
            if key not in seen:
                seen.add(key)
                yield state

    def after_a_sync_that_failed(self, steps):
        """All that was written is shown, and only what was synced before is on the disk.

        So it is after a sync failed: Linux calls the pages clean, and never writes them.
        """
        durable, pending, entries, moves = self._replay(steps)
        shown = _moved(entries, moves)
        names = sorted(shown, key=lambda name: name not in entries)
        found = MemoryDisk({n: _after(durable[shown[n]], pending[shown[n]]) for n in names})
        found.begin = {n: durable[shown[n]] for n in names if n in entries}
        found.log = [("create", n, found.names_of[n]) for n in names if n not in entries]
        return found

    def durable(self):
        contents, _, entries, _ = self._replay(len(self.log))
        return {name: contents[ino] for name, ino in entries.items()}

    def _replay(self, steps):
        durable, pending, entries, moves = {}, {}, {}, []
        for number, (name, data) in enumerate(self.begin.items()):
            durable[number], pending[number], entries[name] = data, [], number
        for what, *how in self.log[:steps]:
            match what:
                case "create":
                    durable[how[1]], pending[how[1]] = b"", []
                    moves.append((what, *how))
                case "rename" | "unlink":
                    moves.append((what, *how))
                case "write" | "truncate":
                    pending[how[0]].append((what, *how[1:]))
                case "sync":
                    durable[how[0]] = _after(durable[how[0]], pending[how[0]])
                    pending[how[0]] = []
                case "sync_folder":
                    entries, moves = _moved(entries, moves), []
        return durable, pending, entries, moves


def _apply(content, op):
    match op:
        case ("write", start, data):
            if len(content) < start:
                content.extend(bytes(start - len(content)))
            content[start : start + len(data)] = data
        case ("truncate", size):
            del content[size:]


def _after(data, ops):
    content = bytearray(data)
    for op in ops:
        _apply(content, op)
    return bytes(content)


def _contents(durable, pending, rng):
    everything = {i: _after(durable[i], ops) for i, ops in pending.items()}
    yield dict(durable)
    yield everything
    for ino, ops in pending.items():
        for variant in _partly(durable[ino], ops, rng):
            yield everything | {ino: variant}
            yield durable | {ino: variant}


def _partly(data, ops, rng):
    for missing in range(len(ops)):  # reordered: one is not there, later ones are
        yield _after(data, ops[:missing] + ops[missing + 1 :])
    if not ops or ops[-1][0] != "write":
        return
    _, start, last = ops[-1]
    before = _after(data, ops[:-1])
    cuts = {*range(0, len(last), SECTOR), rng.randrange(len(last)), len(last) - 1}
    for cut in sorted(cuts):
        yield _after(before, [("write", start, last[:cut])])
        yield _spoiled(before, start, last, cut, bytes(len(last[cut : cut + SECTOR])))
    yield _spoiled(before, start, last, 0, bytes(len(last)))
    half = len(last) // 2
    yield _spoiled(before, start, last, half, rng.randbytes(len(last) - half))


def _spoiled(before, start, data, at, instead):
    """`data` written, but for a part in whose place `instead` is found.

    Only new parts of a file can be spoiled: a sector that was there holds the old bytes or
    the new ones (what SQLite calls powersafe overwrite).
    """
    old = before[start + at : start + at + len(instead)]
    part = old + instead[len(old) :]
    return _after(before, [("write", start, data[:at] + part + data[at + len(part) :])])


def _moved(entries, moves):
    entries = dict(entries)
    for what, name, *rest in moves:
        if what == "create":
            entries[name] = rest[0]
        elif what == "unlink":
            entries.pop(name, None)
        elif name in entries:
            entries[rest[0]] = entries.pop(name)
    return entries


def _namings(entries, moves):
    yield entries
    for number in range(len(moves)):
        yield _moved(entries, moves[: number + 1])
        yield _moved(entries, moves[:number] + moves[number + 1 :])


def seeded(number):
    return random.Random(number)
