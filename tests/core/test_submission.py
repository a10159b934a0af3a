"""From a draft to a message on disk: the rules of core/submission.py."""

import fakes
import pytest
import trio
from fakes import DAY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ampd.core import submission
from ampd.core.submission import Draft
from ampd.crypto.keys import open1
from ampd.model.errors import Invalid, Refused
from ampd.model.message import (
    MAX_RECIPIENTS,
    MAX_SUBJECT,
    MESSAGE_CONTEXT,
    Envelope,
    Letter,
    Message,
)

BOB = "bob@there.local"


@pytest.fixture
async def met(node, other, alice, bob):
    """Our node knows bob's card."""
    await node.meet(other)
    return node


# U1: on disk


async def test_u1_what_was_answered_survives_the_end_of_the_process(tmp_path, clock, bob, other):
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        await node.meet(other)
        sent = await node.send(alice, [BOB, "alice"], "text", subject="s")
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = node.agents.named("alice")
        assert node.bodies(alice, box="sent") == node.bodies(alice) == ["text"]
        (waiting,) = node.outbox()
        assert node.store.payload(waiting["item"]).mailbox == bob.keys.mailbox
        assert [s.status for s in node.tracking.deliveries(alice, sent.id)[2]] == [
            "queued", "delivered",
        ]  # fmt: skip


async def test_u1_the_sealed_bytes_are_what_the_recipient_can_open(met, alice, bob, other):
    await met.send(alice, BOB, "for bob")
    (row,) = met.outbox()
    queued = met.store.payload(row["item"])
    await other.mailbox.deliver(Envelope(queued.mailbox, queued.expires, queued.sealed), b"n" * 32)
    assert other.bodies(bob) == ["for bob"]


texts = st.text(st.characters(), max_size=200)  # any code point, surrogates included


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(subject=texts, body=texts, payload=st.none() | texts)
def test_u1_every_text_comes_back_byte_for_byte_or_is_refused(
    subject, body, payload, tmp_path_factory
):
    async def run():
        async with fakes.node(tmp_path_factory.mktemp("node")) as node:
            alice = await node.agent("alice")
            draft = Draft(("alice",), subject=subject, text=body, payload=payload)
            whole = (subject + body + (payload or "")).encode(errors="replace")
            if whole != (subject + body + (payload or "")).encode(errors="surrogatepass"):
                with pytest.raises(Invalid):
                    await node.submission.send(alice, draft)
                assert node.inbox(alice) == []
                return
            await node.submission.send(alice, draft)
            (full,) = await node.reading.get(alice, ["1"])
            assert (full.summary.subject, full.body, full.payload) == (subject, body, payload)

    trio.run(run)


# U2: order numbers


def orders(node):
    """The order numbers of all that was sent, in the journal's order."""
    rows = node.store.view.execute("SELECT seq FROM messages WHERE by IS NOT NULL ORDER BY seq")
    signed = [node.store.payload(seq).signed for (seq,) in rows]
    sent = [Message.from_bytes(open1(each, MESSAGE_CONTEXT)[1]) for each in signed]
    return [[to.order for to in each.to] for each in sent]


async def test_u2_numbers_count_up_for_each_pair(met, alice):
    carol = await met.agent("carol")
    await met.send(alice, BOB)
    await met.send(alice, [BOB, "carol"])
    await met.send(carol, BOB)
    await met.send(alice, "carol")
    assert orders(met) == [[1], [2, 1], [1], [2]]


async def test_u2_a_send_that_fails_burns_no_number(met, alice):
    await met.send(alice, BOB)
    too_large = "x" * fakes.LIMIT
    works = [
        met.submission.prepare(alice, Draft((BOB,), text=text)) for text in ("a", too_large, "b")
    ]
    _first, failed, _last = await met.submission.send_many(alice, works)
    assert isinstance(failed, Refused) and failed.code == "too_large"
    assert orders(met) == [[1], [2], [3]]
    assert met.bodies(alice, box="sent") == ["", "a", "b"]


async def test_u2_many_at_once_have_each_number_once(met, alice):
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(met.send, alice, BOB)
    assert orders(met) == [[number] for number in range(1, 51)]


# U3: recipients here


async def test_u3_a_recipient_here_has_it_at_once(node, alice):
    carol = await node.agent("carol")
    sent = await node.send(alice, "carol", "hi")
    assert [(to.address, to.status, to.via) for to in sent.recipients] == [
        ("carol@here.local", "delivered", "local")
    ]
    assert node.bodies(carol) == ["hi"]
    assert node.inbox(carol)[0].trust == "verified"


async def test_u3_here_and_elsewhere_each_has_a_status_of_its_own(met, alice, other):
    await met.agent("carol")
    sent = await met.send(alice, ["carol", BOB, "alice"])
    assert [(to.address, to.status, to.via) for to in sent.recipients] == [
        ("carol@here.local", "delivered", "local"),
        (BOB, "queued", ""),
        ("alice@here.local", "delivered", "local"),
    ]
    assert sent.status == "queued"
    assert len(met.outbox()) == 1


async def test_u3_a_recipient_named_twice_gets_one(met, alice):
    sent = await met.send(alice, ["alice", "ALICE@here.local", "bob", "Bob@There.Local", BOB])
    assert [to.address for to in sent.recipients] == ["alice@here.local", BOB]
    assert len(met.inbox(alice)) == 1


async def test_u3_who_was_removed_a_moment_ago_gets_nothing_and_the_sender_hears(node, alice):
    await node.agent("carol")
    work = node.submission.prepare(alice, Draft(("carol",)))
    await node.agents.remove("carol", purge=True)
    (answer,) = await node.submission.send_many(alice, [work])
    assert isinstance(answer, Refused) and answer.code == "recipient_unknown"
    assert node.inbox(alice, box="sent") == []


# U4: the same key, the same answer


async def test_u4_the_same_key_sends_once(met, alice):
    first = await met.send(alice, BOB, "one", key="k")
    again = await met.send(alice, BOB, "one", key="k")
    assert first == again and first.at > 0 and again.at == 0
    assert met.bodies(alice, box="sent") == ["one"]


async def test_u4_also_at_the_same_time(met, alice):
    answers = []

    async def send():
        answers.append(await met.send(alice, [BOB, "alice"], key="k"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(send)
    works = [met.submission.prepare(alice, Draft((BOB,), key="k")) for _ in range(3)]
    answers += await met.submission.send_many(alice, works)
    assert len({answer.id for answer in answers}) == 1 and len(answers) == 13
    assert len(met.inbox(alice)) == len(met.outbox()) == 1


async def test_u4_also_after_a_restart_and_when_the_recipient_is_gone(tmp_path, clock):
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        await node.agent("carol")
        first = await node.send(alice, "carol", key="k")
        await node.agents.remove("carol", purge=False)
    clock.time += 7 * DAY
    async with fakes.node(tmp_path, clock=clock) as node:
        again = await node.send(node.agents.named("alice"), "carol", key="k")
        assert again.id == first.id


async def test_u4_not_after_seven_days(node, alice, clock):
    first = await node.send(alice, "alice", key="k")
    clock.time += 7 * DAY + 1
    second = await node.send(alice, "alice", key="k")
    assert second.id != first.id
    assert (await node.send(alice, "alice", key="k")).id == second.id


async def test_u4_another_agents_key_is_another_key(node, alice):
    carol = await node.agent("carol")
    first = await node.send(alice, "carol", key="k")
    assert (await node.send(carol, "carol", key="k")).id != first.id


# U6: ids that callers give

ID = bytes(range(16))


def under(identifier=ID, to=("alice",), **changes):
    fields = {"text": "once", "subject": "s", "payload": '{"a":1.0}', "id": identifier}
    return Draft(tuple(to), **(fields | changes))


async def test_u6_the_message_has_the_id_that_its_sender_gave(met, alice):
    sent = await met.submission.send(alice, under(to=("alice", BOB)))
    assert sent.id == sent.thread == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert met.outbox()[0]["message"] == ID


async def test_u6_the_same_again_gives_the_first_answer(met, alice):
    draft = under(to=(BOB, "alice"))
    first = await met.submission.send(alice, draft)
    before = met.records()
    assert await met.submission.send(alice, draft) == first
    assert await met.submission.send(alice, under(to=("ALICE", "Bob@there.local"))) == first
    assert met.records() == before and len(met.inbox(alice)) == 1


async def test_u6_also_at_the_same_time_and_after_a_restart(tmp_path, clock):
    answers = []
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = await node.agent("alice")
        works = [node.submission.prepare(alice, under()) for _ in range(4)]
        answers += await node.submission.send_many(alice, works)
    async with fakes.node(tmp_path, clock=clock) as node:
        alice = node.agents.named("alice")
        answers.append(await node.submission.send(alice, under()))
        assert len(node.inbox(alice)) == 1
    assert len(set(answers)) == 1


async def test_u6_others_in_the_same_moment_are_told_apart(node, alice):
    drafts = (under(), under(text="other"), under(bytes(16)), under())
    works = [node.submission.prepare(alice, each) for each in drafts]
    first, conflict, second, again = await node.submission.send_many(alice, works)
    assert first == again != second
    assert conflict.code == "conflict"


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "other"}, {"subject": "other"}, {"payload": '{"a":1}'}, {"payload": None},
        {"type": "request"}, {"priority": "high"}, {"context": "{}"}, {"receipt": True},
        {"in_reply_to": bytes(16)}, {"thread": bytes(16)}, {"to": ("alice", BOB)}, {"to": (BOB,)},
    ],
    ids=str,
)  # fmt: skip
async def test_u6_other_content_under_the_same_id_is_refused(met, alice, changes):
    await met.submission.send(alice, under())
    before = met.records()
    with pytest.raises(Refused) as caught:
        await met.submission.send(alice, under(**changes))
    assert caught.value.code == "conflict" and met.records() == before


async def test_u6_another_agents_id_is_another_message(node, alice):
    carol = await node.agent("carol")
    await node.submission.send(alice, under(to=("carol",)))
    await node.submission.send(carol, under(to=("alice",), text="other"))
    assert node.bodies(carol) == ["once"] and node.bodies(alice) == ["other"]


async def test_u6_the_id_of_a_message_that_was_deleted_is_not_given_again(node, alice):
    carol = await node.agent("carol")
    sent = await node.submission.send(alice, under(to=("carol",)))
    await node.marks.delete(alice, [sent.id])
    with pytest.raises(Refused, match="under this id"):
        await node.submission.send(alice, under(to=("carol",)))
    await node.marks.delete(carol, ["1"])
    with pytest.raises(Refused, match="under this id"):
        await node.submission.send(alice, under(to=("carol",)))
    assert node.inbox(carol) == []


async def test_u6_an_id_of_another_length_is_refused(node, alice):
    with pytest.raises(Invalid):
        await node.submission.send(alice, under(b"short"))


# U5: refused whole


@pytest.mark.parametrize(
    ("to", "code"),
    [
        (["alice", "nobody"], "recipient_unknown"),
        (["alice", "nobody@there.local"], "recipient_unknown"),
        (["alice", "al ice"], "invalid"),
        (["alice", "a@b@c"], "invalid"),
        (["alice", "аlice"], "invalid"),  # noqa: RUF001 - the first letter is Cyrillic
        ([], "invalid"),
        (["alice"] * (MAX_RECIPIENTS + 1), "too_large"),
    ],
)
async def test_u5_one_recipient_that_nobody_knows_and_nothing_is_sent(node, alice, to, code):
    before = node.records()
    with pytest.raises(Refused) as found:
        await node.send(alice, to)
    assert found.value.code == code
    assert node.records() == before and node.inbox(alice) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject": "s" * (MAX_SUBJECT + 1)}, "too_large"),
        ({"text": "x" * fakes.LIMIT}, "too_large"),
        ({"priority": "extreme"}, "invalid"),
        ({"expires_in": 0}, "invalid"),
        ({"expires_in": 30 * DAY + 1}, "invalid"),
        ({"type": ""}, "invalid"),
        ({"type": "t" * 65}, "invalid"),
        ({"key": "k" * 201}, "invalid"),
        ({"text": "\ud800"}, "invalid"),
        ({"key": "\udfff"}, "invalid"),
    ],
)
async def test_u5_what_breaks_a_limit_leaves_nothing(met, alice, changes, code):
    before = met.records()
    with pytest.raises(Refused) as found:
        await met.send(alice, [BOB, "alice"], **changes)
    assert found.value.code == code
    assert met.records() == before
    await met.send(alice, [BOB, "alice"])  # and the next one passes


async def test_a_contact_of_whom_only_the_key_is_known_can_be_written_to(node, alice, bob):
    await node.contacts.add(fakes.link(bob))
    assert (await node.send(alice, BOB)).status == "queued"
    [item, mailbox] = node.store.view.execute("SELECT item, mailbox FROM outbox").fetchone()
    assert mailbox == bob.keys.mailbox
    opened = bob.keys.open(node.store.payload(item).sealed)
    assert Letter.from_bytes(opened).kind == "message"


async def test_a_message_at_every_limit_passes(met, alice):
    sent = await met.send(
        alice, [BOB, "alice"], subject="s" * MAX_SUBJECT, type="t" * 64, key="k" * 200,
        expires_in=30 * DAY, priority="urgent",
    )  # fmt: skip
    assert sent.status == "queued"


async def test_a_card_that_comes_before_the_letter_is_kept_is_the_one_it_is_sealed_to(
    met, alice, other, bob
):
    work = met.submission.prepare(alice, Draft((BOB,), text="hello"))  # knows the old card
    fresh = await fakes.with_new_keys(other, bob)
    await met.contacts.learn([fresh.signed_card], b"n" * 32, "lan")
    await met.store.write(work)
    item = met.store.view.execute("SELECT item FROM outbox").fetchone()[0]
    assert fresh.keys.open(met.store.payload(item).sealed) is not None


async def test_u5_what_cannot_be_sealed_leaves_nothing_of_its_message_in_a_group(
    met, alice, monkeypatch
):
    before = met.records()

    def refuses(*_):
        raise Refused("this key cannot be sealed to")

    monkeypatch.setattr(submission, "seal", refuses)
    works = [met.submission.prepare(alice, Draft((BOB,), text="hello"))]
    (answer,) = await met.submission.send_many(alice, works)
    assert isinstance(answer, Refused)
    assert met.records() == before
