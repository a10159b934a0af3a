"""A message of an agent here, in the form in which it goes to another provider or mesh host.

DP1  What the agent's own program signed goes as it was signed. All else is signed here, by the
     key that this node keeps for the agent (provider.py, PK2).
DP2  A body over AMP's limit is refused, not cut.
DP3  2xx is an answer; what may pass (no answer, 5xx, 408, 425, 429, 421 of a host that does not
     know its name yet, and a repetition that came too soon: intake.py, IN3) is offered again; the
     rest is final. That it has the message already is as good as an answer.
"""

from typing import Final

from ampd.core.ports import Parcel
from ampd.crypto.foreign_keys import ForeignKey
from ampd.edge.amp.intake import REPLAY, key_said
from ampd.edge.amp.ports import Document, Mail
from ampd.edge.amp.provider import Provider
from ampd.edge.http.client import Reply
from ampd.edge.methods import Rooms
from ampd.model.errors import Invalid, Refused, Unavailable
from ampd.model.message import Delivery, id_text
from ampd.model.values import value
from ampd.protocol import raw_json
from ampd.protocol.amp import signing
from ampd.protocol.amp.envelope import MAX_BODY
from ampd.protocol.raw_json import Raw

_AGAIN: Final = (408, 421, 425, 429)
_HAS_IT: Final = ("duplicate", "duplicate_message", "message_exists")


@value
class Departing:
    """An envelope, its payload, and the key that signed them."""

    envelope: Document
    payload: Raw
    key: ForeignKey


class Departures:
    """Makes messages ready to go."""

    def __init__(self, rooms: Rooms, mail: Mail, provider: Provider) -> None:
        self._rooms = rooms
        self._mail = mail
        self._provider = provider

    def of(self, parcel: Parcel) -> Departing:
        """The form of a parcel (DP1, DP2). Raises Refused, StorageError."""
        agent = parcel.sender
        if len(parcel.message.body.encode()) > MAX_BODY:
            raise Refused(f"AMP carries at most {MAX_BODY} bytes of text", code="too_large")
        seq = self._rooms.lists.find(agent, id_text(parcel.message.id))
        item = self._mail.item(agent, self._rooms.reading.full(agent, seq))
        envelope, payload = dict(item["envelope"]), Raw(item["payload"])
        key = key_said(item["sender_public_key"])
        if envelope.get("signature") and key is not None and len(parcel.message.to) == 1:
            return Departing(envelope, payload, key)
        signer = self._provider.signer_of(agent)
        envelope["to"] = str(parcel.recipient)
        envelope["signature"] = signing.sign(envelope, raw_json.parse(payload), signer.sign)
        return Departing(envelope, payload, signer.public)


def answered(reply: Reply, who: str) -> Delivery:
    """What the answer of another provider or host means (DP3). Raises Refused, Unavailable."""
    try:
        said = raw_json.plain(raw_json.parse(reply.body))
    except Invalid:
        said = {}
    said = said if isinstance(said, dict) else {}
    if 200 <= reply.status < 300 and said.get("accepted") is not False:
        delivered = said.get("delivered") is True or said.get("status") == "delivered"
        return Delivery("delivered" if delivered else "relayed")
    if said.get("error") in _HAS_IT:
        return Delivery("relayed")
    text = f"{who} answered {reply.status}: {said.get('message') or said.get('error') or 'no'}"
    if reply.status >= 500 or reply.status in _AGAIN or said.get("error") == REPLAY:
        raise Unavailable(text[:500])
    raise Refused(text[:500])
