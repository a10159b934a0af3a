"""Attachments of AMP, asked through the application; accounts are those of small_gateway.py."""

import hashlib
import io
from contextlib import aclosing, asynccontextmanager

import fakes
import pytest
import trio
from edge import gateway_harness
from edge.amp.small_gateway import SmallMail, SmallService, sha256
from hypothesis import given
from hypothesis import strategies as st

from ampd.edge.amp import attachment_files, attachments
from ampd.edge.amp.abuse import Abuse
from ampd.edge.amp.attachment_files import AttachmentFiles, judged
from ampd.edge.amp.attachments import SENT_FOR, UNSENT_FOR, UPLOAD_WITHIN, Attachments
from ampd.edge.amp.limits import Limits
from ampd.edge.amp.provider import Provider
from ampd.model.errors import Invalid, Refused
from ampd.protocol.amp.faults import Fault

ALICE, BOB = "amp_live_sk_alice", "amp_live_sk_bob"


class Depot:
    """A gateway that has attachments, and nothing else of AMP."""

    def __init__(self, place, mail, made):
        self.place, self.mail, self.made = place, mail, made

    async def announce(self, data=b"hello", token=ALICE, **said):
        body = {
            "filename": "notes.txt", "content_type": "text/plain", "size": len(data),
            "digest": sha256(data), **said,
        }  # fmt: skip
        return await self.place.post("/api/attachments/upload", body, token=token)

    async def put(self, url, data):
        path = url.removeprefix("http://localhost:23000")
        headers = {"Content-Type": "text/plain"}
        return await self.place.request("PUT", path, body=data, headers=headers)

    async def brought(self, data=b"hello", **said):
        """The id of an attachment whose bytes are here."""
        announced = (await self.announce(data, **said)).json
        assert (await self.put(announced["upload_url"], data)).status == 200
        return announced["attachment_id"]

    async def get(self, path, token=ALICE):
        return await self.place.get(f"/api/attachments/{path}", token=token)

    @asynccontextmanager
    async def half_brought(self, path):
        """Meanwhile an upload has come half, and goes no further; then its caller leaves."""
        events, left = [{"type": "http.request", "body": b"hel", "more_body": True}], trio.Event()

        async def receive():
            await trio.lowlevel.checkpoint()
            if events:
                return events.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_event):
            await trio.lowlevel.checkpoint()

        asked = gateway_harness.scope("http", "PUT", path, {"Host": "localhost:23000"})
        before = self.made._files.held
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.place.app, asked, receive, send)
            while self.made._files.held != before + 3:
                await trio.lowlevel.checkpoint()
            yield
            left.set()

    def check(self, *ids, agent="alice", **options):
        carried = [{"id": each, "size": 5} for each in ids]
        return self.made.check(agent, {"attachments": carried}, **options)

    @property
    def folder(self):
        return self.place.shared.values.state / "attachments"

    def files(self):
        return sorted(each.name for each in self.folder.iterdir())


@asynccontextmanager
async def depot(folder, **options):
    made = []

    def services(shared):
        mail = SmallMail(shared.rooms, Provider(shared.values.amp_domain, shared.values.state))
        limits = Limits({}, Abuse(lambda: 0.0), shared.now, lambda: 0.0)
        made.extend((mail, Attachments(shared, mail, limits)))
        service = SmallService(made[1].routes())
        return [service, gateway_harness.Nothing("amtp")]

    options.setdefault("run", False)
    async with gateway_harness.gateway(folder, services=services, **options) as place:
        for name in ("alice", "bob", "mallory"):
            await made[0].register(name)
        yield Depot(place, *made)


def code(answer):
    return answer.status, answer.json["error"]


async def test_an_attachment_is_announced_brought_confirmed_and_fetched(tmp_path):
    async with depot(tmp_path) as here:
        announced = await here.announce(b"hello", filename="../x/Grüße.txt")
        assert announced.status == 201
        identifier = announced.json["attachment_id"]
        assert announced.json["upload_url"].startswith("http://localhost:23000/v1/attachments/")
        assert (await here.put(announced.json["upload_url"], b"hello")).status == 200
        confirmed = await here.place.post(f"/api/attachments/{identifier}/confirm", token=ALICE)
        shown = await here.get(identifier)
        assert confirmed.json == shown.json
        assert shown.json["scan_status"] == "basic_clean"
        assert shown.json["filename"] == "../x/Grüße.txt"
        link = shown.json["download_url"].removeprefix("http://localhost:23000")
        for fetched in (await here.place.get(link), await here.get(f"{identifier}/download")):
            assert (fetched.status, fetched.body) == (200, b"hello")
            assert fetched.headers["content-type"] == "text/plain"
            disposition = fetched.headers["content-disposition"]
            assert disposition == "attachment; filename*=UTF-8''..%2Fx%2FGr%C3%BC%C3%9Fe.txt"


async def test_af1_a_file_is_named_by_an_id_made_here(tmp_path):
    async with depot(tmp_path) as here:
        identifier = await here.brought(filename="../../etc/passwd")
        assert here.files() == [identifier]


@pytest.mark.parametrize("data", [b"hello!", b"hell", b"hellO", b""])
async def test_af2_only_the_announced_bytes_are_kept(tmp_path, data):
    async with depot(tmp_path) as here:
        announced = (await here.announce(b"hello")).json
        assert (await here.put(announced["upload_url"], data)).status == 422
        assert here.files() == []
        assert (await here.get(announced["attachment_id"])).json["scan_status"] == "pending"
        assert (await here.put(announced["upload_url"], b"hello")).status == 200


async def test_af2_a_stream_that_breaks_leaves_nothing(tmp_path):
    files = AttachmentFiles(tmp_path / "files")

    async def pieces():
        yield b"hel"
        raise Invalid("the connection broke")

    with pytest.raises(Invalid):
        async with aclosing(pieces()) as data:
            await files.keep("att_1_a", data, 5, hashlib.sha256(b"hello").hexdigest())
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "first", "verdict"),
    [
        ("text/plain", b"hello", "basic_clean"),
        ("text/plain", b"#!/bin/sh\n", "rejected"),
        ("application/octet-stream", b"\x7fELF\x02", "rejected"),
        ("image/png", b"MZ\x90", "rejected"),
        ("text/x-shellscript", b"echo", "rejected"),
        ("image/png", b"\x89PNG\r\n\x1a\n", "basic_clean"),
        ("image/png", b"<html>", "suspicious"),
        ("Application/PDF; charset=x", b"hello", "suspicious"),
    ],
)
def test_af4_the_first_bytes_say_what_a_file_is(kind, first, verdict):
    assert judged(kind, first) == verdict


@given(st.text(max_size=40), st.binary(max_size=40))
def test_af4_no_file_is_ever_called_clean(kind, first):
    assert judged(kind, first) in ("basic_clean", "suspicious", "rejected")


async def test_at1_a_file_has_at_most_25_mib(tmp_path):
    async with depot(tmp_path) as here:
        assert code(await here.announce(size=(25 << 20) + 1)) == (413, "attachment_too_large")
        assert (await here.announce(size=25 << 20)).status == 201


async def test_at1_a_message_has_ten_files_and_100_mib(tmp_path):
    async with depot(tmp_path) as here:
        many = [{"id": f"elsewhere-{n}", "url": "https://x.example/f"} for n in range(11)]
        assert here.made.check("alice", {"attachments": many[:10]}) == []
        with pytest.raises(Fault, match="more than 10"):
            here.made.check("alice", {"attachments": many})
        large = [{**each, "size": 25 << 20} for each in many[:5]]
        with pytest.raises(Fault) as caught:
            here.made.check("alice", {"attachments": large})
        assert (caught.value.status, caught.value.error) == (413, "attachment_too_large")


async def test_at1_announcements_count_against_the_share_of_an_agent(tmp_path, monkeypatch):
    monkeypatch.setattr(attachments, "QUOTA", 10)
    async with depot(tmp_path) as here:
        assert (await here.announce(b"123456")).status == 201
        assert code(await here.announce(b"123456")) == (507, "quota_exceeded")
        assert (await here.announce(b"1234")).status == 201
        assert (await here.announce(b"123456", token=BOB)).status == 201
        here.place.clock.time += UNSENT_FOR
        assert (await here.announce(b"123456")).status == 201


async def test_at1_a_full_disk_takes_no_files(tmp_path, monkeypatch):
    async with depot(tmp_path) as here:
        announced = (await here.announce()).json
        monkeypatch.setattr(AttachmentFiles, "free", lambda _self: attachment_files.RESERVE)
        assert code(await here.announce()) == (507, "quota_exceeded")
        brought = await here.put(announced["upload_url"], b"hello")
        assert code(brought) == (507, "quota_exceeded")


async def test_at1_who_only_announces_takes_no_room_from_others(tmp_path, monkeypatch):
    monkeypatch.setattr(attachment_files, "MOST", 10)
    async with depot(tmp_path) as here:
        announced = [(await here.announce(b"123456")).json for _ in range(3)]
        assert (await here.put(announced[0]["upload_url"], b"123456")).status == 200
        refused = await here.put(announced[1]["upload_url"], b"1")  # before its bytes come
        assert code(refused) == (507, "quota_exceeded")
        assert code(await here.announce(b"12345", token=BOB)) == (507, "quota_exceeded")
        assert (await here.announce(b"1234", token=BOB)).status == 201


async def test_at1_one_agent_announces_only_what_a_message_may_carry(tmp_path, monkeypatch):
    monkeypatch.setattr(attachments, "MAX_TOTAL", 10)
    async with depot(tmp_path) as here:
        first = (await here.announce(b"123456")).json
        assert code(await here.announce(b"12345")) == (507, "quota_exceeded")
        assert (await here.announce(b"12345", token=BOB)).status == 201
        assert (await here.put(first["upload_url"], b"123456")).status == 200
        assert (await here.announce(b"1234567890")).status == 201
        assert code(await here.announce(b"1")) == (507, "quota_exceeded")
        here.place.clock.time += UPLOAD_WITHIN + 1
        assert (await here.announce(b"12345")).status == 201


def zeros(size):
    return hashlib.sha256(bytes(size)).hexdigest()


async def test_af3_bytes_count_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(attachment_files, "MOST", 10)
    files, held = AttachmentFiles(tmp_path / "files"), []

    async def pieces(*sizes):
        for size in sizes:
            yield bytes(size)
            held.append(files.held)

    async def keep(name, *sizes):
        async with aclosing(pieces(*sizes)) as data:
            await files.keep(name, data, sum(sizes), zeros(sum(sizes)))

    await keep("one", 4, 2)
    assert held == [4, 6]
    with pytest.raises(Refused) as caught:
        await keep("two", 3, 2)
    assert (caught.value.code, files.held) == ("quota_exceeded", 6)
    await keep("two", 4)
    assert AttachmentFiles(tmp_path / "files").held == files.held == 10
    await files.remove("one")
    assert files.held == 4


async def test_af3_a_full_disk_ends_what_is_coming(tmp_path, monkeypatch):
    files = AttachmentFiles(tmp_path / "files")

    async def pieces():
        yield b"hel"
        monkeypatch.setattr(AttachmentFiles, "free", lambda _self: attachment_files.RESERVE + 1)
        yield b"lo"

    with pytest.raises(Refused, match="room"):
        async with aclosing(pieces()) as data:
            await files.keep("att_1_a", data, 5, sha256(b"hello").removeprefix("sha256:"))
    assert (files.held, list((tmp_path / "files").iterdir())) == (0, [])


async def test_af2_a_disk_that_takes_less_than_it_is_given_gets_the_rest(tmp_path, monkeypatch):
    class Slow(io.FileIO):
        def write(self, data):
            return super().write(bytes(data)[:2])

    monkeypatch.setattr(attachment_files.os, "fdopen", lambda fd, *_, **__: Slow(fd, "wb"))
    files = AttachmentFiles(tmp_path / "files")

    async def pieces():
        yield b"hello"

    async with aclosing(pieces()) as data:
        await files.keep("att_1_a", data, 5, sha256(b"hello").removeprefix("sha256:"))
    assert files.path("att_1_a").read_bytes() == b"hello"


async def test_at2_a_link_takes_one_caller_at_a_time(tmp_path):
    async with depot(tmp_path) as here:
        path = (await here.announce()).json["upload_url"].removeprefix("http://localhost:23000")
        async with here.half_brought(path):
            assert code(await here.place.request("PUT", path, body=b"hello")) == (409, "conflict")
        assert (await here.place.request("PUT", path, body=b"hello")).status == 200


async def test_at3_what_comes_slowly_keeps_nothing_else(tmp_path):
    async with depot(tmp_path) as here:
        over = await here.brought()
        here.place.clock.time += UNSENT_FOR
        path = (await here.announce()).json["upload_url"].removeprefix("http://localhost:23000")
        async with here.half_brought(path):
            assert await here.made.sweep() == 1
            assert [each.partition(".")[2][-4:] for each in here.files()] == ["part"]
        assert over not in here.files()


async def test_at3_what_comes_while_the_rest_is_swept_stays(tmp_path):
    files = AttachmentFiles(tmp_path / "files")
    files.path("old").write_bytes(b"x")

    async def living():
        files.path("new").write_bytes(b"y")
        await trio.lowlevel.checkpoint()
        return {"other"}

    assert await files.sweep(living) == 1
    assert [each.name for each in (tmp_path / "files").iterdir()] == ["new"]


async def test_at2_a_link_works_once(tmp_path):
    async with depot(tmp_path) as here:
        announced = (await here.announce()).json
        assert (await here.put(announced["upload_url"], b"hello")).status == 200
        again = await here.put(announced["upload_url"], b"hello")
        assert code(again) == (410, "attachment_expired")


async def test_at2_a_link_works_for_an_hour(tmp_path):
    async with depot(tmp_path) as here:
        announced = (await here.announce()).json
        here.place.clock.time += UPLOAD_WITHIN + 1
        late = await here.put(announced["upload_url"], b"hello")
        assert code(late) == (410, "attachment_expired")


async def test_at2_another_token_brings_and_fetches_nothing(tmp_path):
    async with depot(tmp_path) as here:
        announced = (await here.announce()).json
        right = announced["upload_url"]
        wrong = right[:-1] + ("a" if right[-1] != "a" else "b")
        assert code(await here.put(wrong, b"hello")) == (404, "not_found")
        identifier = await here.brought()
        assert code(await here.get(f"{identifier}/file/zz")) == (404, "not_found")


async def test_at3_what_was_not_sent_is_gone_after_two_hours(tmp_path):
    async with depot(tmp_path) as here:
        unsent, sent = await here.brought(), await here.brought()
        await here.made.bind([sent], here.place.clock.time + 1000)
        here.place.clock.time += UNSENT_FOR
        assert await here.made.sweep() == 1
        assert here.files() == [sent]
        assert code(await here.get(unsent)) == (404, "not_found")
        here.place.clock.time += SENT_FOR - UNSENT_FOR - 1
        assert (await here.get(sent)).status == 200
        here.place.clock.time += 1
        assert (await here.made.sweep(), here.files()) == (1, [])


async def test_at3_what_was_sent_stays_as_long_as_its_message(tmp_path):
    async with depot(tmp_path) as here:
        sent = await here.brought()
        await here.made.bind([sent], here.place.clock.time + 30 * fakes.DAY)
        here.place.clock.time += 30 * fakes.DAY - 1
        assert (await here.get(sent)).status == 200


async def test_at3_a_half_file_of_a_crash_is_swept(tmp_path):
    async with depot(tmp_path) as here:
        (here.folder / "att_1_a.00.part").write_bytes(b"h")
        assert (await here.made.sweep(), here.files()) == (1, [])


async def test_at4_only_what_its_sender_brought_whole_may_be_sent(tmp_path):
    async with depot(tmp_path) as here:
        whole = await here.brought()
        assert here.check(whole, whole) == [whole]
        with pytest.raises(Fault) as caught:
            here.check(whole, agent="mallory")
        assert caught.value.status == 403
        pending = (await here.announce()).json["attachment_id"]
        with pytest.raises(Fault) as caught:
            here.check(pending)
        assert (caught.value.status, caught.value.error) == (409, "attachment_pending")
        program = await here.brought(b"#!/bin/sh\n")
        with pytest.raises(Fault) as caught:
            here.check(program)
        assert (caught.value.status, caught.value.error) == (422, "attachment_rejected")
        with pytest.raises(Fault) as caught:
            here.check("att_1_" + "0" * 32)
        assert (caught.value.status, caught.value.error) == (410, "attachment_expired")


async def test_at4_no_other_message_may_carry_it(tmp_path):
    async with depot(tmp_path) as here:
        identifier = await here.brought()
        await here.made.bind([identifier], 0, message=b"first")
        assert here.check(identifier, message=b"first") == [identifier]
        with pytest.raises(Fault) as caught:
            here.check(identifier, message=b"second")
        assert (caught.value.status, caught.value.error) == (409, "attachment_already_used")


async def test_at4_references_to_other_places_pass(tmp_path):
    async with depot(tmp_path) as here:
        carried = [
            {"storage": "afp", "ref": "afp://x", "id": "att_1_" + "0" * 32},
            {"filename": "x"},
            {"id": "att_1_" + "0" * 32, "url": "https://other.example/f"},
        ]
        assert here.made.check("alice", {"attachments": carried}) == []
        assert here.made.check("alice", {"message": "none"}) == []
        with pytest.raises(Fault):
            here.made.check("alice", {"attachments": {"id": "x"}})


async def test_at5_a_program_is_rejected_and_its_bytes_are_not_kept(tmp_path):
    async with depot(tmp_path) as here:
        identifier = await here.brought(b"#!/bin/sh\nrm -rf /\n")
        assert here.files() == []
        shown = (await here.get(identifier)).json
        assert (shown["scan_status"], shown["url"]) == ("rejected", None)
        assert code(await here.get(f"{identifier}/download")) == (422, "attachment_rejected")


async def test_at6_a_browser_shows_none(tmp_path):
    async with depot(tmp_path) as here:
        page = b"<script>alert(1)</script>"
        identifier = await here.brought(page, content_type="text/html")
        headers = (await here.get(f"{identifier}/download")).headers
        assert headers["content-disposition"].startswith("attachment;")
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]


async def test_a_file_is_read_in_pieces_and_closed_when_nobody_wants_more(tmp_path, monkeypatch):
    opened = []

    def recorded(path):
        opened.append(path.open("rb", buffering=0))
        return opened[-1]

    monkeypatch.setattr(attachment_files, "_open", recorded)
    monkeypatch.setattr(attachment_files, "PIECE", 2)
    async with depot(tmp_path) as here:
        identifier = await here.brought(b"hello")
        assert (await here.get(f"{identifier}/download")).body == b"hello"
        async with aclosing(AttachmentFiles(here.folder).pieces(identifier)) as pieces:
            assert [await anext(pieces), await anext(pieces)] == [b"he", b"ll"]
            assert [each.closed for each in opened] == [True, False]
        assert opened[1].closed
        head = await here.place.request("HEAD", f"/api/attachments/{identifier}/download",
                                        token=ALICE)  # fmt: skip
        assert (head.status, head.headers["content-length"], len(opened)) == (200, "5", 2)


async def test_a_file_that_is_not_there_any_more_is_unavailable(tmp_path):
    async with depot(tmp_path) as here:
        identifier = await here.brought()
        (here.folder / identifier).unlink()
        answer = await here.get(f"{identifier}/download")
        assert code(answer) == (503, "unavailable")
        assert str(tmp_path) not in answer.text


async def test_only_the_sender_and_the_readers_of_its_message_may_ask(tmp_path):
    async with depot(tmp_path) as here:
        identifier = await here.brought()
        assert code(await here.get(identifier, BOB)) == (404, "not_found")
        await here.made.bind([identifier], 0, readers=["bob"])
        assert (await here.get(f"{identifier}/download", BOB)).body == b"hello"
        assert code(await here.get(identifier, "amp_live_sk_mallory")) == (404, "not_found")
        assert (await here.get(identifier, "")).status == 401
        denied = await here.place.post(f"/api/attachments/{identifier}/confirm", token=BOB)
        assert code(denied) == (404, "not_found")


async def test_at7_an_attachment_belongs_to_agents_and_not_to_names(tmp_path):
    async with depot(tmp_path) as here:
        identifier = await here.brought()
        await here.made.bind([identifier], 0, readers=["bob"])
        await here.place.node.agents.remove("alice", purge=True)
        await here.place.shared.registry.delete_owned("alice")
        await here.mail.register("alice")  # another one
        assert code(await here.get(identifier)) == (404, "not_found")
        assert (await here.get(f"{identifier}/download", BOB)).body == b"hello"


@pytest.mark.parametrize(
    "said",
    [
        {"filename": ""}, {"filename": "a\nb"}, {"filename": "x" * 256}, {"content_type": "text"},
        {"content_type": "text/plain\r\nX: y"}, {"size": 0}, {"size": "5"}, {"size": 1.5},
        {"size": True}, {"digest": "md5:0"}, {"digest": "sha256:" + "g" * 64}, {"digest": None},
    ],
)  # fmt: skip
async def test_what_is_announced_is_checked(tmp_path, said):
    async with depot(tmp_path) as here:
        answer = await here.announce(**said)
        assert (answer.status, answer.json["field"]) == (400, next(iter(said)))
