"""Addresses of AMP, and which native address each one means.

    name@[scope.]tenant.provider      backend@agents-web.github.acme.aimaestro.local

Names are unique on a node, whatever their tenant: the clients drop the scope of an address, and say
their own tenant for a bare name. So the name alone finds the agent, and the labels before the
provider only have to fit it.

  AD1  name: 1-63 of a-z 0-9 _ -; labels: 1-63 of a-z 0-9 -; 254 characters in all (section 02).
  AD2  Addresses are compared in lower case.
  AD3  `bob` and `bob@acme` are short for bob in the sender's tenant, and in acme.
  AD4  `bob@NODE.DOMAIN`, the native address, and `bob@PROVIDER` mean the agent of this node.
  AD5  `bob@acme.local` is whoever is known under it as a native address, else bob in acme (K18).
  AD6  *.local, *.internal and *.localhost are of this network: nothing for them leaves it (06a).
  AD7  A client that was not told its tenant signs as one of `default`, and writes to it: that, and
       the home tenant, mean the agent of the name, whatever its own tenant is.

Not here: who has an account (edge/amp/accounts.py).
"""

import re
from functools import lru_cache
from typing import Final, Self

from ampd.model.address import MAX_ADDRESS, Address
from ampd.model.errors import Invalid
from ampd.model.values import value

_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}")
_LABEL: Final = re.compile(r"[a-z0-9-]{1,63}")
UNTOLD: Final = "default"
_LOCAL_NETWORKS: Final = ("local", "internal", "localhost")


@value
class AmpAddress:
    """An address in lower case; `domain` is "" for a bare name."""

    name: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that `text` is, short ones too, or Invalid (AD1, AD2)."""
        lowered = text.strip().lower()
        name, at, domain = lowered.partition("@")
        if len(lowered) > MAX_ADDRESS or not text.isascii():
            raise Invalid(f"{text[:80]!r} is no AMP address: over {MAX_ADDRESS} characters, or odd")
        if not _NAME.fullmatch(name):
            raise Invalid(
                f"{name[:80]!r} is no agent name of AMP", hint="use 1 to 63 of a-z 0-9 - _"
            )
        if at and not all(_LABEL.fullmatch(label) for label in domain.split(".")):
            raise Invalid(
                f"{domain[:80]!r} is no scope and provider of AMP",
                hint="write the address as name@tenant.provider",
            )
        return cls(name, domain)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its domain."""
        return tuple(self.domain.split(".")) if self.domain else ()

    @property
    def is_full(self) -> bool:
        """Whether it names a tenant and a provider of two labels or more."""
        return len(self.labels) >= 3

    def __str__(self) -> str:
        return f"{self.name}@{self.domain}" if self.domain else self.name


def is_local_network(domain: str) -> bool:
    """AD6."""
    return domain.lower().rpartition(".")[2] in _LOCAL_NETWORKS


@value
class Here:
    """An agent of this provider; `path` are the labels before the provider, None: any."""

    name: str
    path: tuple[str, ...] | None


@value
class Nearby:
    """Somebody at a name of this network: a native address, else a tenant here (AD5)."""

    address: Address
    here: Here


@value
class Elsewhere:
    """Somebody of another domain."""

    address: Address


Place = Here | Nearby | Elsewhere


@value
class Names:
    """The domains of this provider, and what addresses mean to it."""

    provider: str  # values.amp_domain
    node: str  # the native domain of this node
    home: str  # the tenant of agents that have no account

    def place(self, text: str, tenant: str = "") -> Place:
        """Where an address leads that an agent of `tenant` wrote; Invalid if it is none."""
        return _place(self, text, tenant)

    def address(self, name: str, tenant: str = "", scope: tuple[str, ...] = ()) -> str:
        """The full AMP address of an agent of this node."""
        return f"{name}@{'.'.join((*scope, tenant or self.home, self.provider))}"

    @property
    def host(self) -> str:
        """What this machine is called in host-scoped addresses (06a)."""
        return self.node.partition(".")[0]

    def fits(self, path: tuple[str, ...] | None, tenant: str, scope: tuple[str, ...]) -> bool:
        """Whether an address with these labels means the agent of this tenant and scope."""
        host = self.host
        return path is None or path in (
            (*scope, tenant), (tenant,), (self.home,), (UNTOLD,),
            (host,), (host, tenant), (host, *scope, tenant),
        )  # fmt: skip

    def signed_as(self, name: str, tenant: str, scope: tuple[str, ...]) -> tuple[str, ...]:
        """What the agent may call itself in what it signs, the likeliest first (AD7)."""
        paths = ((*scope, tenant), (tenant,), (self.home,), (UNTOLD,))
        return tuple(dict.fromkeys(f"{name}@{'.'.join(p)}.{self.provider}" for p in paths))


@lru_cache(maxsize=4096)  # correspondents repeat: every message of a page names two
def _place(names: Names, text: str, tenant: str) -> Place:
    if "@" in text and "." in text.partition("@")[0]:  # a native name may have dots
        return _native(names, Address.parse(text))
    address = AmpAddress.parse(text)
    domain, labels = address.domain, address.labels
    if len(labels) < 2:
        return Here(address.name, (domain or tenant or names.home,))
    if domain in (names.node, names.provider):
        return Here(address.name, None)
    if domain.endswith(f".{names.provider}"):
        path = labels[: -(names.provider.count(".") + 1)]
        return Here(address.name, path)
    native = Address.parse(str(address))
    if len(labels) == 2 and is_local_network(domain):
        return Nearby(native, Here(address.name, labels[:1]))
    return Elsewhere(native)


def _native(names: Names, address: Address) -> Place:
    if address.domain in (names.node, names.provider):
        return Here(address.name, None)
    if address.domain.endswith(f".{names.provider}"):
        return Here(address.name, (names.home,))
    return Elsewhere(address)
