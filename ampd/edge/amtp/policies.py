"""Which senders of other domains are let in, with which schemas, and how often (AMTP 1.0, 9.4.1).

    GET, PUT /v1/admin/policies
    {"default_policy": "allow" | "deny",
     "rules": [{"sender_pattern": "*.partner.example", "action": "allow" | "deny",
                "schemas": ["agntcy:commerce.*"]?, "rate_limit": "100/hour"?}, ...]}

  DP1  The first rule whose pattern fits decides. A pattern with an @ is held against the address,
       one without against the domain; * stands for any text.
  DP2  A rule with schemas allows these and nothing else, also no message without one.
  DP3  Where no rule fits the default decides. Until one is set it follows gateway.federation:
       open lets everybody in, allowlist those of gateway.federation_allow and gateway.resolve,
       closed nobody.
  DP4  Whoever somebody here wrote to may answer, unless a rule denies it.

Not here: whether a sender is who it says (verification.py).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ampd.core.foreign import Foreign
from ampd.edge.amp.counting import Counting
from ampd.edge.amtp.failures import Failure
from ampd.edge.amtp.gateways import Gateways
from ampd.edge.amtp.ports import Mail
from ampd.edge.amtp.schemas import fits
from ampd.edge.gateway_values import GatewayValues
from ampd.edge.http.words import Answer, Request, Route
from ampd.model.address import Address
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.storage.registry import Registry

_KIND: Final = "amtp.policy"
_KEY: Final = "current"
_MAX_RULES: Final = 500  # each message looks at all of them
_RATE: Final = re.compile(r"([1-9][0-9]{0,6})/(second|minute|hour|day)")
_SECONDS: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


@value
class Rule:
    """One rule, as it was checked."""

    pattern: str
    allows: bool
    schemas: tuple[str, ...] = ()
    limit: int = 0
    seconds: float = 0.0

    def fits(self, sender: Address) -> bool:
        """DP1."""
        text = str(sender) if "@" in self.pattern else sender.domain
        parts = (re.escape(part) for part in self.pattern.lower().split("*"))
        return re.fullmatch(".*".join(parts), text) is not None


class Policies:
    """Decides, and lets administrators change the rules."""

    def __init__(
        self,
        registry: Registry,
        foreign: Foreign,
        gateways: Gateways,
        values: GatewayValues,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is monotonic, in seconds."""
        self._registry = registry
        self._foreign = foreign
        self._gateways = gateways
        self._values = values
        self._clock = clock
        self._allowed = {each.lower() for each in values.federation_allow}
        self._read: tuple[dict[str, Any] | None, bool | None, tuple[Rule, ...]] = (None, None, ())
        self._counts: dict[str, Counting] = {}

    def check(self, sender: Address, schema: str) -> None:
        """Failure unless this sender may send this (DP1-DP4)."""
        default, rules = self._current()
        rule = next((each for each in rules if each.fits(sender)), None)
        if rule is None:
            allowed = self._by_settings(sender) if default is None else default
            if allowed or self._was_written_to(sender):
                return
            raise _denied(sender, "no rule lets it in")
        if not rule.allows:
            raise _denied(sender, f"the rule for {rule.pattern} denies it")
        if rule.schemas and not any(fits(pattern, schema) for pattern in rule.schemas):
            raise _denied(sender, f"the rule for {rule.pattern} allows other schemas only")
        if rule.limit:
            self._count(rule, sender)

    def _count(self, rule: Rule, sender: Address) -> None:
        name = f"{rule.pattern} {rule.limit}/{rule.seconds}"
        counting = self._counts.setdefault(name, Counting(rule.seconds, self._clock))
        window = counting.window(sender.domain)
        if window.count >= rule.limit:
            wait = max(1, round(counting.left(window)))
            raise Failure(
                429, "RATE_LIMIT_EXCEEDED", f"{sender.domain} may send {rule.limit} in this time",
                headers={"Retry-After": str(wait)},
            )  # fmt: skip
        window.count += 1

    def _by_settings(self, sender: Address) -> bool:
        """DP3."""
        if self._values.federation == "allowlist":
            return sender.domain in self._allowed or self._gateways.is_configured(sender.domain)
        return self._values.federation == "open"

    def _was_written_to(self, sender: Address) -> bool:
        """DP4: whoever is written to has a contact with our shadow key."""
        return bool(self._foreign.protocol_of(self._foreign.key_of(sender)))

    def _current(self) -> tuple[bool | None, tuple[Rule, ...]]:
        value = self._registry.get(_KIND, _KEY)
        if value != self._read[0]:
            self._read = (value, *_parsed(value or {}))
            self._counts.clear()
        return self._read[1], self._read[2]

    # --- administrators ------------------------------------------------------------------------

    def routes(self, mail: Mail) -> Sequence[Route]:
        """Every method of the path."""

        async def show(request: Request) -> Answer:
            mail.check_admin(request)
            return Answer.json(200, self._document())

        async def replace(request: Request) -> Answer:
            mail.check_admin(request)
            value = raw_json.plain(request.json())
            if not isinstance(value, dict):
                raise _wrong("the body is a JSON object")
            _parsed(value)
            kept = {name: value[name] for name in ("default_policy", "rules") if name in value}
            await self._registry.put(_KIND, _KEY, kept)
            return Answer.json(200, self._document())

        path = "/v1/admin/policies"
        return (Route("GET", path, show), Route("PUT", path, replace))

    def _document(self) -> Mapping[str, Any]:
        value = self._registry.get(_KIND, _KEY) or {}
        default = "allow" if self._values.federation == "open" else "deny"
        return {"default_policy": default, "rules": [], **value}


def _parsed(value: Mapping[str, Any]) -> tuple[bool | None, tuple[Rule, ...]]:
    """The default, if one is set, and the rules. Failure if it is written otherwise."""
    default = value.get("default_policy")
    if default not in (None, "allow", "deny"):
        raise _wrong("default_policy is allow or deny")
    rules = value.get("rules", [])
    if not isinstance(rules, list) or len(rules) > _MAX_RULES:
        raise _wrong(f"rules is a list of at most {_MAX_RULES}")
    return (None if default is None else default == "allow"), tuple(_rule(each) for each in rules)


def _rule(value: Any) -> Rule:
    if not isinstance(value, dict) or value.get("action") not in ("allow", "deny"):
        raise _wrong("a rule has sender_pattern, and action allow or deny")
    pattern, schemas = value.get("sender_pattern"), value.get("schemas") or []
    if not isinstance(pattern, str) or not 0 < len(pattern) <= 254 or pattern.count("*") > 3:
        raise _wrong("sender_pattern is an address or a domain, with at most three *")
    if not isinstance(schemas, list) or not all(isinstance(each, str) for each in schemas):
        raise _wrong("schemas is a list of ids and prefixes with *")
    limit, seconds = 0, 0.0
    if value.get("rate_limit"):
        found = _RATE.fullmatch(str(value["rate_limit"]))
        if found is None:
            raise _wrong("rate_limit is written 100/hour")
        limit, seconds = int(found[1]), _SECONDS[found[2]]
    return Rule(pattern, value["action"] == "allow", tuple(schemas), limit, seconds)


def _denied(sender: Address, why: str) -> Failure:
    return Failure(
        403, "ACCESS_DENIED", f"messages of {sender.domain} are not taken here",
        details={"sender": str(sender), "reason": why},
    )  # fmt: skip


def _wrong(why: str) -> Failure:
    return Failure(400, "INVALID_REQUEST_FORMAT", why)
