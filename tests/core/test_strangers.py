"""How much mail of strangers is taken: the rules of core/strangers.py, through the mailbox."""

from core.test_cards import somebody
from fakes import letter, message, post, sign

from ampd.core.mailbox import Taken
from ampd.core.meters import Meters
from ampd.core.strangers import ANSWER_BYTES
from ampd.model.errors import Refused

NODE = b"n" * 32


def allow(node, each=1 << 30, everybody=1 << 30):
    node.mailbox._strangers.each, node.mailbox._strangers.all = Meters(each), Meters(everybody)


async def bring(node, *letters, via="relay"):
    return await node.mailbox.take(list(letters), NODE, via)


def waiting(node):
    """How many letters of receipts wait in the outbox."""
    return sum(row["what"] == "receipt" for row in node.outbox())


async def test_st1_a_flood_is_taken_up_to_what_strangers_may_bring(node, alice, bob):
    crowd = [somebody(bob, f"s{n}") for n in range(8)]
    cost = len(sign(crowd[0], message(crowd[0], alice, body="x" * 900)))
    cost += len(crowd[0].signed_card)
    allow(node, everybody=3 * cost + 20)
    answers = [
        await bring(node, letter(each, alice, body="x" * 900), via="direct") for each in crowd
    ]
    assert [isinstance(each, Taken) for (each,) in answers] == [True] * 3 + [False] * 5


async def test_st1_who_is_written_to_brings_as_much_as_it_likes(node, alice, bob):
    await node.contacts.learn([bob.signed_card], NODE, "lan")
    await node.send(alice, str(bob.address), "hello")
    allow(node, 0, 0)
    for each in (letter(bob, alice), letter(bob, alice, payload="{", order=2)):
        await bring(node, each)
    assert len(node.inbox(alice)) == 1 and waiting(node) == 2


async def test_st2_a_large_card_and_our_answer_count_with_a_small_message(node, alice, bob):
    large = somebody(bob, "large", description="d" * 1000)
    first = sign(large, message(large, alice))
    card, answer = len(large.signed_card), len(alice.signed_card) + ANSWER_BYTES
    allow(node, len(first) + card + answer - 1)
    (taken,) = await bring(node, post(first, alice, card=large.signed_card))
    assert isinstance(taken, Refused) and taken.code == "quota_exceeded"
    allow(node, len(first) + card + answer)
    (taken,) = await bring(node, post(first, alice, card=large.signed_card))
    assert taken == Taken("message")


async def test_st2_a_card_that_is_known_and_a_letter_that_is_begun_count_once(node, alice, bob):
    letters = [letter(bob, alice, order=n + 1, body="x" * 900) for n in range(10)]
    signed = len(sign(bob, message(bob, alice, body="x" * 900)))
    once = len(bob.signed_card) + len(alice.signed_card)
    allow(node, 10 * (signed + ANSWER_BYTES) + once + 50)
    assert await bring(node, *letters) == [Taken("message")] * 10


async def test_st3_a_flood_of_what_is_refused_leaves_nothing_here(node, alice, bob):
    """Else each of them is answered by a letter, and leaves a card of a key of its own."""
    crowd = [somebody(bob, f"s{n}", description="d" * 1000) for n in range(10)]
    room = len(crowd[0].signed_card) + len(alice.signed_card) + ANSWER_BYTES
    allow(node, everybody=2 * room + 10)
    for each in crowd:
        (answer,) = await bring(node, letter(each, alice, payload="{"))
        assert isinstance(answer, Refused)
    assert waiting(node) == 2
    kept = node.records()
    await bring(node, *(letter(each, alice, payload="{", order=2) for each in crowd))
    assert node.records() == kept


async def test_st3_who_brings_a_letter_too_many_is_told(node, alice, bob):
    allow(node, 8000)
    ok, late = letter(bob, alice, body="x" * 2000), letter(bob, alice, body="x" * 9000, order=2)
    (first,) = await bring(node, ok)
    (second,) = await bring(node, late)
    assert first == Taken("message") and second.code == "quota_exceeded"
    assert waiting(node) == 2
