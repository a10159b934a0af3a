"""Requests to servers elsewhere whose URLs strangers may have chosen.

  HC1  A host is resolved once; the address that was found fit is the one that is connected to, so
       that no second answer of the DNS leads elsewhere (rebinding). TLS checks the host's name.
  HC2  Unless the caller says `anywhere`, only public addresses are fit (addresses.py), and the
       hosts of gateway.webhook_hosts.
  HC3  No redirect is followed unless asked for; each is checked as the first URL was, none leads
       from https to http, and none takes the caller's headers to another origin. `anywhere` is
       said of the URL that was given: where it leads on another host must be public (HC2).
  HC4  Nothing takes longer than its timeout or more than its limit: of a longer answer the
       beginning is kept, and `whole` is false.
  HC5  No proxy, no credentials, no cookies come from the environment or stay behind.
  HC6  One origin has at most PER_ORIGIN of the connections, so that one that answers nobody leaves
       the others theirs; who waits for one is served in the order of asking, within its timeout.

Refused: the URL may not be asked, now or later. Unavailable: it did not answer; maybe later.
"""

import os
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urljoin

import httpcore
import trio

import ampd
from ampd.edge.http.addresses import Target, is_public, target_of
from ampd.edge.http.dns import Dns
from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.model.values import value

_CONNECTIONS: Final = 50  # at once, to all hosts
PER_ORIGIN: Final = 8  # what browsers allow themselves, about (they take 6)
_KEPT_OPEN: Final = 10
_KEPT_FOR: Final = 15.0  # seconds; a server closes them sooner or later, and we race with it
_ONE_ADDRESS: Final = 5.0  # seconds for one of several addresses to answer
_HARMLESS: Final = frozenset(("accept", "content-type", "content-length", "user-agent"))

Origin = tuple[str, str, int]


@value
class Reply:
    """What the other server said."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes
    whole: bool = True  # False: the body was longer than the limit, and is cut (HC4)


class HttpClient:
    """Asks other servers. Use it as an async context manager, or call `aclose`."""

    def __init__(
        self,
        dns: Dns,
        webhook_hosts: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` verifies servers; None: by the system's authorities."""
        self._dns = dns
        self._listed = frozenset(each.lower() for each in webhook_hosts)
        self._tls = tls
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}
        self._turns: dict[tuple[bool, Origin], trio.CapacityLimiter] = {}  # HC6

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float = 15.0,  # noqa: ASYNC109 - of the whole exchange, as HC4 says
        anywhere: bool = False,
        limit: int = 1 << 20,
        redirects: int = 0,
    ) -> Reply:
        """One request, and its answer (HC1-HC5)."""
        try:
            with trio.fail_after(timeout):
                return await self._follow(
                    _Request(method, target_of(url), dict(headers or {}), body),
                    redirects, anywhere=anywhere, limit=limit,
                )  # fmt: skip
        except trio.TooSlowError:
            raise Unavailable(f"{_shown(url)} did not answer within {timeout:g} s") from None

    async def _follow(
        self, request: "_Request", redirects: int, *, anywhere: bool, limit: int
    ) -> Reply:
        while True:
            async with self._turn(request.target.origin, anywhere=anywhere):
                reply = await self._once(request, anywhere=anywhere, limit=limit)
            where = reply.headers.get("location")
            if redirects == 0 or where is None or reply.status not in (301, 302, 303, 307, 308):
                return reply
            redirects -= 1
            asked = request.target.host
            request = request.redirected(reply.status, where)
            anywhere = anywhere and request.target.host == asked

    @asynccontextmanager
    async def _turn(self, origin: Origin, *, anywhere: bool) -> AsyncGenerator[None, None]:
        """HC6; what is asked on a stranger's word holds up nothing else."""
        key = anywhere, origin
        turns = self._turns.setdefault(key, trio.CapacityLimiter(PER_ORIGIN))
        try:
            async with turns:
                yield
        finally:
            found = turns.statistics()
            if not found.borrowed_tokens and not found.tasks_waiting:
                self._turns.pop(key, None)

    async def _once(self, request: "_Request", *, anywhere: bool, limit: int) -> Reply:
        pool = await self._pool(anywhere=anywhere)
        try:
            async with pool.stream(
                request.method, str(request.target), headers=request.sent(), content=request.body
            ) as response:
                body, whole = await _read(response, limit)
                found = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in response.headers
                }
                return Reply(response.status, found, body, whole)
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.UnsupportedProtocol,
        ) as exc:
            raise Unavailable(f"{_shown(str(request.target))}: {_reason(exc)}") from None

    async def _pool(self, *, anywhere: bool) -> httpcore.AsyncConnectionPool:
        """One for each policy: a connection that `anywhere` opened serves nobody else (HC2)."""
        if self._tls is None:  # reads the system's authorities: some tens of milliseconds
            self._tls = await trio.to_thread.run_sync(ssl.create_default_context)
        if anywhere not in self._pools:
            listed = None if anywhere else self._listed
            self._pools[anywhere] = httpcore.AsyncConnectionPool(
                ssl_context=self._tls,
                max_connections=_CONNECTIONS,
                max_keepalive_connections=_KEPT_OPEN,
                keepalive_expiry=_KEPT_FOR,
                network_backend=_Checked(self._dns, listed),
            )
        return self._pools[anywhere]

    async def aclose(self) -> None:
        """Close what is open."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()


@value
class _Request:
    method: str
    target: Target
    headers: dict[str, str]
    body: bytes

    def sent(self) -> list[tuple[bytes, bytes]]:
        """The headers as they go out."""
        own = {
            "Host": _host_header(self.target),
            "User-Agent": f"ampd/{ampd.__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # nothing that a few bytes blow up
        }
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            own["Content-Length"] = str(len(self.body))
        given = {name.lower() for name in self.headers}
        merged = {k: v for k, v in own.items() if k.lower() not in given} | self.headers
        return [(name.encode("latin-1"), text.encode("latin-1")) for name, text in merged.items()]

    def redirected(self, status: int, where: str) -> "_Request":
        """The request that a redirect asks for (RFC 9110, section 15.4; HC3)."""
        target = target_of(urljoin(str(self.target), where))
        if self.target.scheme == "https" and target.scheme == "http":
            raise Refused(f"{_shown(str(self.target))} leads from https to http")
        dropped: set[str] = set()
        if target.origin != self.target.origin:  # an API key may stand in any header
            dropped = {name.lower() for name in self.headers} - _HARMLESS
        method, body = self.method, self.body
        if status == 303 or (status in (301, 302) and method == "POST"):
            method, body = ("HEAD" if method == "HEAD" else "GET"), b""
            dropped |= {"content-type", "content-length"}
        kept = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        return _Request(method, target, kept, body)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that are fit (HC1, HC2)."""

    def __init__(self, dns: Dns, listed: frozenset[str] | None) -> None:
        self._dns = dns
        self._listed = listed  # None: every address is fit
        self._trio = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await self._dns.addresses(host)
        if self._listed is not None and not {host, f"{host}:{port}"} & self._listed:
            fit = [each for each in found if is_public(each)]
            if not fit:
                raise Refused(
                    f"{host} is at an address of this machine or its network",
                    hint=f'add "{host}:{port}" to gateway.webhook_hosts if that is meant',
                )
            found = fit
        for address in found[:-1]:
            try:
                return await self._trio.connect_tcp(
                    address, port, _ONE_ADDRESS, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._trio.connect_tcp(found[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


async def _read(response: httpcore.Response, limit: int) -> tuple[bytes, bool]:
    """The body, as far as the limit goes, and whether that is all of it."""
    body = bytearray()
    try:
        async for part in response.aiter_stream():
            body += part
            if len(body) > limit:
                await (
                    response.aclose()
                )  # and on: generators left in their middle are not cleaned up
    except (httpcore.NetworkError, httpcore.ProtocolError):
        if len(body) <= limit:
            raise
    return bytes(body[:limit]), len(body) <= limit


def _host_header(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    default = {"http": 80, "https": 443}[target.scheme]
    return host if target.port == default else f"{host}:{target.port}"


def _shown(url: str) -> str:
    """A URL for an error: without its query, which may hold a secret."""
    try:
        return str(target_of(url)).partition("?")[0]
    except Invalid:
        return "this URL"


def _reason(exc: BaseException) -> str:
    """What went wrong, at its root: "certificate verify failed", not "connection broken"."""
    while (cause := _cause(exc)) is not None:
        exc = cause
    if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) and exc.errno:
        return os.strerror(exc.errno).lower()
    return str(exc) or type(exc).__name__


def _cause(exc: BaseException) -> BaseException | None:
    """One step to the root; of a group, its first: what one address said stands for all."""
    if isinstance(exc, BaseExceptionGroup):
        first: BaseException = exc.exceptions[0]
        return first
    return exc.__cause__ or exc.__context__
