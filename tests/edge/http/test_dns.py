"""The DNS against a small real name server."""

import socket
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from ampd.edge.http import dns as dns_module
from ampd.edge.http.dns import KEPT_AT_LEAST, KEPT_AT_MOST, NONE_KEPT_AT_MOST, Dns
from ampd.model.errors import Invalid, Unavailable

SOA = "ns.test. admin.test. 1 2 3 4 120"


class NameServer:
    """Answers over UDP from a table; counts what it was asked."""

    def __init__(self, table):
        self.table = table  # (name, kind) -> (ttl, records)
        self.asked = []
        self.silent = False
        self.address = ""

    async def run(self, task_status):
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as udp:
            await udp.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{udp.getsockname()[1]}"
            task_status.started()
            while True:
                data, whence = await udp.recvfrom(4096)
                if not self.silent:
                    await udp.sendto(self.answer(dns.message.from_wire(data)), whence)

    def answer(self, query):
        reply = dns.message.make_response(query)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        name = question.name.to_text().rstrip(".")
        self.asked.append((name, kind))
        ttl, records = self.table.get((name, kind), (0, None))
        if records:
            reply.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *records))
        else:
            if records is None and not any(known == name for known, _ in self.table):
                reply.set_rcode(dns.rcode.NXDOMAIN)
            reply.authority.append(dns.rrset.from_text("test.", 900, "IN", "SOA", SOA))
        return reply.to_wire()


@asynccontextmanager
async def name_server(**records):
    """A server with TXT and A records: `txt={...}`, `a={...}`, name -> (ttl, texts)."""
    table = {
        (name, kind.upper()): found for kind, of in records.items() for name, found in of.items()
    }
    server = NameServer(table)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def test_dn2_txt_records_come_with_their_strings_joined():
    long = '"v=amtp1;gateway=" "https://b.test"'
    async with name_server(txt={"_amtp.b.test": (300, [long, '"second"'])}) as server:
        texts, ttl = await Dns(server.address).txt("_amtp.B.test.")
        assert sorted(texts) == ["second", "v=amtp1;gateway=https://b.test"]
        assert ttl == 300


async def test_dn1_an_answer_is_kept_for_its_ttl(mock_clock):
    async with name_server(txt={"a.test": (60, ['"x"'])}) as server:
        asking = Dns(server.address)
        await asking.txt("a.test")
        mock_clock.jump(59)
        assert await asking.txt("A.TEST") == (["x"], 1)
        assert len(server.asked) == 1
        mock_clock.jump(2)
        assert await asking.txt("a.test") == (["x"], 60)
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("ttl", "kept"), [(0, KEPT_AT_LEAST), (7 * 86400, KEPT_AT_MOST), (100, 100)]
)
async def test_dn1_a_ttl_counts_within_limits(ttl, kept):
    async with name_server(txt={"a.test": (ttl, ['"x"'])}) as server:
        assert (await Dns(server.address).txt("a.test"))[1] == kept


async def test_dn1_that_there_is_none_is_kept_too(mock_clock):
    async with name_server(a={"there.test": (60, ["192.0.2.1"])}) as server:
        asking = Dns(server.address)
        for name in ("nowhere.test", "there.test"):
            assert await asking.txt(name) == ([], 120)  # as the SOA says
            assert await asking.txt(name) == ([], 120)
        assert len(server.asked) == 2
        assert NONE_KEPT_AT_MOST >= 120
        mock_clock.jump(121)
        await asking.txt("nowhere.test")
        assert len(server.asked) == 3


async def test_dn1_that_nobody_answered_is_not_kept(monkeypatch):
    monkeypatch.setattr(dns_module, "ASKS_FOR", 0.05)
    async with name_server(txt={"a.test": (60, ['"x"'])}) as server:
        server.silent = True
        asking = Dns(server.address)
        with pytest.raises(Unavailable, match="does not say TXT"):
            await asking.txt("a.test")
        server.silent = False
        monkeypatch.undo()
        assert (await asking.txt("a.test"))[0] == ["x"]


async def test_dn2_addresses_come_from_the_named_server():
    async with name_server(a={"b.test": (60, ["192.0.2.7"])}) as server:
        asking = Dns(server.address)
        assert await asking.addresses("b.test") == ["192.0.2.7"]
        assert await asking.addresses("192.0.2.9") == ["192.0.2.9"]
        assert await asking.addresses("::1") == ["::1"]
        with pytest.raises(Unavailable, match="no host"):
            await asking.addresses("nowhere.test")


async def test_dn2_without_a_server_names_mean_what_this_machine_says():
    assert "127.0.0.1" in await Dns().addresses("localhost")


async def test_a_host_that_is_not_there_is_said_without_numbers(monkeypatch):
    async def nowhere(*_question, **_more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", nowhere)
    with pytest.raises(Unavailable) as caught:
        await Dns().addresses("nowhere.invalid")
    assert str(caught.value) == "there is no host nowhere.invalid: name or service not known"


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".test", "ä" * 300])
async def test_a_name_that_cannot_be_asked_for_is_unavailable(name, monkeypatch):
    monkeypatch.setattr(dns_module, "ASKS_FOR", 0.05)
    with pytest.raises(Unavailable):
        await Dns("127.0.0.1:9").txt(name)


def test_a_server_by_name_is_refused():
    with pytest.raises(Invalid, match=r"gateway\.dns"):
        Dns("ns.test:53")
