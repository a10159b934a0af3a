"""Whom a draft is for: the keys behind its addresses.

  RC1 Every address is resolved, or the draft is refused; two that are one key are one recipient.
  RC2 An answer to an address at which nobody is any more goes to the key that signed the answered
      message, at its address of today: a key is an identity, an address is a name, and the name of
      a machine changes.

Not here: what an address resolves to (contacts.py), what becomes of the draft (submission.py).
"""

from collections.abc import Sequence

from ampd.core.agents import Agents
from ampd.core.contacts import Contacts, Target
from ampd.model.errors import Refused
from ampd.storage.view import Reader


class Recipients:
    """Resolves the addresses of drafts."""

    def __init__(self, view: Reader, agents: Agents, contacts: Contacts) -> None:
        self._view = view
        self._agents = agents
        self._contacts = contacts

    def targets(self, to: Sequence[str], answered: bytes | None) -> list[Target]:
        """One for each key (RC1); `answered` is the id of the message that is answered, if one is.

        Raises Refused, code recipient_unknown, for whom nobody knows.
        """
        found: dict[bytes, Target] = {}
        for text in to:
            try:
                target = self._contacts.resolve(text)
            except Refused as exc:
                moved = self._moved(text, answered) if exc.code == "recipient_unknown" else None
                if moved is None:
                    raise
                target = moved
            found.setdefault(target.key, target)
        return list(found.values())

    def _moved(self, text: str, answered: bytes | None) -> Target | None:
        """Where the signer of the answered message, which was at this address, is now (RC2)."""
        rows = self._view.execute(
            "SELECT sender_key FROM messages WHERE id=? AND sender=?", (answered or b"", text)
        ).fetchall()
        for (key,) in rows:
            local = self._agents.of_key(key)
            if local is not None:
                return Target(local.address, local.key, local.card, local)
            card = self._contacts.card(key)
            if card is not None and str(card.address) != text:
                target = self._contacts.resolve(str(card.address))
                return target if target.key == key else None
        return None
