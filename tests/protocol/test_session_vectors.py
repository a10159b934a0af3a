"""The bytes of one whole session, as a second implementation writes them."""

import json
from pathlib import Path

import pytest
from protocol.by_hand import vectors

from ampd.crypto.keys import SigningKey
from ampd.protocol.handshake import Handshake
from ampd.protocol.session import Session

FILE = Path(__file__).parent.parent / "vectors" / "session.json"
VECTORS = json.loads(FILE.read_text())
MESSAGES = [bytes.fromhex(message) for message in VECTORS["handshake"]]


def side(who, make):
    node, static, ephemeral = map(bytes.fromhex, VECTORS["secrets"][who].values())
    with pytest.warns(UserWarning, match="ephemeral"):  # fixed, for the test
        return make(SigningKey(node), static, ephemeral=ephemeral)


def both():
    return side("caller", Handshake.calling), side("answerer", Handshake.answering)


def test_the_file_is_what_the_second_implementation_writes():
    assert vectors() == VECTORS


def test_the_handshake_is_byte_for_byte_that_of_the_second_implementation():
    caller, answerer = both()
    assert caller.start() == MESSAGES[0]
    assert answerer.receive(MESSAGES[0]) == MESSAGES[1]
    assert caller.receive(MESSAGES[1]) == MESSAGES[2]
    assert answerer.receive(MESSAGES[2]) == b""
    assert (caller.peer, answerer.peer) == (answerer._key.public, caller._key.public)


def test_every_word_is_byte_for_byte_that_of_the_second_implementation():
    caller, answerer = both()
    caller.start()
    caller.receive(answerer.receive(MESSAGES[0]))
    answerer.receive(MESSAGES[2])
    ends = {"caller": (caller.channel, Session()), "answerer": (answerer.channel, Session())}
    for said in VECTORS["session"]:
        speaks, hears = ends[said["by"]], ends["answerer" if said["by"] == "caller" else "caller"]
        data = bytes.fromhex(said["bytes"])
        (event,) = hears[1].receive(hears[0].open(data))
        assert speaks[0].seal(speaks[1].send(event)) == data, said["word"]
        assert type(event).__name__ == said["word"].partition("(")[0]
    assert ends["caller"][1].over and ends["answerer"][1].over
