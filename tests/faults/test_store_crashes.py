"""Power fails while the store writes works of several records: T3 and E2, R3 of the records."""

import trio
from faults.memory_disk import MemoryDisk, seeded
from storage.mail import agents, local, opened, outgoing


def live(folder, disk):
    """Works of one and of two records, in batches; by step of the disk's log, who was told."""
    told = []

    async def run():
        store = opened(folder, disk=disk, segment_bytes=4096)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await store.write(agents)

            async def send(work):
                await store.write(work)
                told.append((len(disk.log), store.journal.checkpoint.seq))

            for batch in range(4):
                async with trio.open_nursery() as senders:
                    for n in range(3):
                        senders.start_soon(send, local() if (n + batch) % 3 else outgoing())
            nursery.cancel_scope.cancel()
        store.close()

    trio.run(run)
    return told


def test_t3_e2_r3_after_a_crash_a_work_is_there_whole_or_not_at_all(tmp_path):
    disk = MemoryDisk()
    (tmp_path / "live").mkdir()
    told = live(tmp_path / "live", disk)
    rng, count, torn = seeded(4), 0, 0
    for step in range(len(disk.log) + 1):
        for state in disk.crash_states(step, rng):
            count += 1
            if count % 3:
                continue
            folder = tmp_path / f"{count}"
            folder.mkdir()
            torn += check(folder, state, [seq for at, seq in told if at <= step])
    assert count > 150 and torn > 3


def check(folder, state, acknowledged):
    """Twice, and once more without the index: the same, whole works; whether one was torn."""
    found = []
    disk = MemoryDisk(state)
    for again in range(3):
        if again == 2:
            (folder / "index.sqlite").unlink()
        store = opened(folder, disk=disk, segment_bytes=4096)
        if again == 0:
            last = store.journal.checkpoint.seq
        rows = store.view.execute(
            "SELECT m.seq, d.status, o.item FROM messages m JOIN deliveries d ON d.message=m.seq"
            " LEFT JOIN outbox o ON o.message=m.id ORDER BY m.seq"
        ).fetchall()
        found.append([tuple(row) for row in rows])
        kinds = [record.kind for _, record, _ in store.records()]
        store.close()
        disk = MemoryDisk(disk.files())
    assert found[0] == found[1] == found[2]
    assert all((status == "queued") == (item is not None) for _, status, item in found[0])
    assert not acknowledged or max(acknowledged) <= last
    return 14 in kinds
