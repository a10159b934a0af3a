"""Asking a foreign AMP provider over HTTP: register, fetch, acknowledge, send, look up.

  PC1  The paths are found by trying: providers serve the API at the URL they name, or under /v1
       or /api/v1 of it, and have one of several forms for fetching and acknowledging. What was
       found is used from then on.
  PC2  Refused is what the provider refuses for good (400, 403, 404, 409, 413, 422 ...);
       everything else that is no yes is Unavailable: away, overloaded (429), its own fault (5xx),
       or an API key that it does not take any more (401), which the user can renew.
  PC3  The URL is the user's own: it may lie on this machine or network. No redirect is followed.

Not here: what is said (provider_words.py), when (external.py).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp.intake import key_said
from ampd.edge.amp.provider_words import Registration, words_of
from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.protocol import raw_json
from ampd.protocol.raw_json import Value

if TYPE_CHECKING:
    from ampd.edge.http.client import HttpClient, Reply

PAGE: Final = 20  # messages asked for at once: with 512 KiB each, under MAX_PAGE
MAX_PAGE: Final = 16 << 20  # bytes of an answer
TIMEOUT: Final = 30.0  # seconds
_NOT_THERE: Final = (404, 405, 501)
_FETCH: Final = (f"/messages/pending?limit={PAGE}", f"/inbox?limit={PAGE}")
_DONE: Final = (
    ("DELETE", "/messages/pending/{}"),
    ("DELETE", "/messages/pending?id={}"),
    ("POST", "/inbox/{}/ack"),
)


class ProviderClient:
    """Speaks with providers; several accounts may share it."""

    def __init__(self, http: "HttpClient") -> None:
        self._http = http
        self._fetch: dict[str, str] = {}  # by URL: the form that was found (PC1)
        self._done: dict[str, tuple[str, str]] = {}

    async def register(
        self, url: str, body: Mapping[str, Any], token: str
    ) -> tuple[str, dict[str, Any]]:
        """The URL at which the API was found, and what the provider answered (PC1)."""
        for place in places(url):
            reply = await self._registering(place, token, raw_json.write(body))
            value = _json(reply)
            if reply.status in _NOT_THERE or (reply.status < 500 and value is None):
                continue
            if reply.status == 401:
                raise Refused(f"{url} says: {words_of(value) or 'HTTP status 401'}")
            _check_registered(reply, value, url)
            if isinstance(value, dict):
                return place, value
        raise Refused(
            f"no AMP provider answers at {url}",
            hint="give the URL that its documentation names, e.g. http://localhost:23000/api",
        )

    async def _registering(self, place: str, token: str, body: str) -> "Reply":
        try:
            return await self._send("POST", f"{place}/register", token, body)
        except Unavailable as exc:
            exc.hint = "check the host and the port of --provider, and that the provider runs there"
            raise

    async def pending(self, account: Registration) -> list[dict[str, Value]]:
        """A page of messages that wait there, the oldest first."""
        forms = [self._fetch[account.url]] if account.url in self._fetch else _FETCH
        reply, path = await self._first(account, [("GET", form) for form in forms])
        value = _json(reply)
        _check(reply, value, account.provider)
        items = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(items, list):
            raise Unavailable(f"{account.provider} answers with no list of messages")
        self._fetch[account.url] = path[1]
        return [item for item in items if isinstance(item, dict)]

    async def acknowledge(self, account: Registration, identifier: str) -> None:
        """It need not be kept there any more. What is not there is done, too."""
        known = self._done.get(account.url)
        forms = [known, *_DONE] if known else list(_DONE)
        named = [(method, form.format(quote(identifier, safe=""))) for method, form in forms]
        reply, found = await self._first(account, named)
        if reply.status in _NOT_THERE:
            return
        _check(reply, _json(reply), account.provider)
        self._done[account.url] = forms[named.index(found)]

    async def route(self, account: Registration, body: str) -> dict[str, Value]:
        """What the provider says of a message that is sent through it."""
        reply = await self._send("POST", account.route, account.api_key, body)
        value = _json(reply)
        _check(reply, value, account.provider)
        if not isinstance(value, dict):
            raise Unavailable(f"{account.provider} does not say what became of it")
        return value

    async def resolve(self, account: Registration, address: str) -> ForeignKey | None:
        """The key that the provider knows for an address; None if it says none."""
        path = f"/agents/resolve/{quote(address, safe='@')}"
        reply = await self._send("GET", account.url + path, account.api_key)
        value = _json(reply)
        if reply.status != 200 or not isinstance(value, dict):
            return None
        return key_said(value.get("public_key"))

    async def _first(
        self, account: Registration, forms: Sequence[tuple[str, str]]
    ) -> "tuple[Reply, tuple[str, str]]":
        """The answer to the first form that the provider has, else to the last."""
        for form in forms:
            reply = await self._send(form[0], account.url + form[1], account.api_key)
            if reply.status not in _NOT_THERE:
                break
        return reply, form

    async def _send(self, method: str, url: str, token: str, body: str = "") -> "Reply":
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body:
            headers["Content-Type"] = "application/json"
        return await self._http.send(
            method, url, headers=headers, body=body.encode(), timeout=TIMEOUT, anywhere=True,
            limit=MAX_PAGE,
        )  # fmt: skip


def places(url: str) -> list[str]:
    """Where the API of a provider may be, the likeliest first (PC1). Invalid if it is no URL.

    For a domain alone it is looked for where AMP's own clients do: https://api.DOMAIN.
    """
    bare = url.strip().rstrip("/").removesuffix("/register")
    if "." in bare and not set(bare) & set(":/@?#"):
        bare = f"https://api.{bare}"
    try:
        parts = urlsplit(bare)
    except ValueError as exc:
        raise Invalid(f"{url[:80]!r} is no URL: {exc}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise Invalid(
            f"{url[:80]!r} is no URL of a provider", hint="write it as https://api.example.com"
        )
    if parts.username is not None or parts.fragment:
        raise Invalid("a provider's URL holds no name, password or fragment")
    ends = ("",) if parts.path.endswith("/v1") else ("/v1", "/api/v1", "")
    return [bare + end for end in ends]


def _json(reply: "Reply") -> Value:
    """The answer's values; None if it is no JSON text. Unavailable if there was too much."""
    if not reply.whole:
        raise Unavailable(f"the provider's answer has more than {MAX_PAGE} bytes")
    try:
        return raw_json.parse(reply.body)
    except Invalid:
        return None


def _check_registered(reply: "Reply", value: Value, url: str) -> None:
    """PC2; a name that is taken can be mended."""
    try:
        _check(reply, value, url)
    except Refused as exc:
        if exc.code == "conflict":
            exc.hint = "if the name is taken, ask for another one: --name NAME"
        raise


def _check(reply: "Reply", value: Value, who: str) -> None:
    """PC2."""
    if 200 <= reply.status < 300:
        return
    said = words_of(value) or f"HTTP status {reply.status}"
    text = f"{who} says: {said}"
    if reply.status == 401:
        raise Unavailable(f"{text} (its API key is not taken any more: amp register it again)")
    if reply.status == 429:
        seconds = reply.headers.get("retry-after", "")
        when = f"in {seconds} s" if seconds.isdecimal() else "later"
        raise Unavailable(text, code="rate_limited", hint=f"ask again {when}")
    if 400 <= reply.status < 500 and reply.status not in (408, 425):
        raise Refused(text, code="conflict" if reply.status == 409 else "")
    raise Unavailable(text)
