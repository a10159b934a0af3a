"""The methods of the local socket about carriers: nodes, relays in use, and mail on a stick."""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from ampd.core.bundles import Bundles
from ampd.core.queues import queues
from ampd.core.relays import Relays
from ampd.edge import documents
from ampd.edge.documents import Document
from ampd.edge.params import Params
from ampd.edge.peer_state import PeerState
from ampd.model.errors import Invalid
from ampd.storage.store import Store


class RelayMethods:
    """`peer.list`, `relay.*` and `bundle.*`."""

    def __init__(
        self,
        store: Store,
        relays: Relays,
        bundles: Bundles,
        peers: Callable[[], list[PeerState]],
    ) -> None:
        self._store = store
        self._relays = relays
        self._bundles = bundles
        self._peers = peers
        self.table: dict[str, Callable[[object, Params], Awaitable[Document]]] = {
            "peer.list": self._peer_list,
            "relay.add": self._add,
            "relay.list": self._list,
            "relay.remove": self._remove,
            "bundle.write": self._write,
            "bundle.read": self._read,
        }

    def _document(self) -> Document:
        waiting = queues(self._store)
        return {"relays": documents.relays(self._relays.states(), self._peers(), waiting)}

    async def _peer_list(self, _caller: object, params: Params) -> Document:
        params.done()
        waiting = queues(self._store)
        return {"peers": [documents.peer(state, waiting) for state in self._peers()]}

    async def _add(self, _caller: object, params: Params) -> Document:
        uri = params.required("uri")
        params.done()
        await self._relays.add(uri)
        await self._relays.answer(uri)
        return self._document()

    async def _list(self, _caller: object, params: Params) -> Document:
        params.done()
        return self._document()

    async def _remove(self, _caller: object, params: Params) -> Document:
        uri = params.required("uri")
        params.done()
        await self._relays.remove(uri)
        return self._document()

    async def _write(self, _caller: object, params: Params) -> Document:
        to = params.texts("to", one_will_do=True) or []
        after = params.integer("after", 0)
        params.done()
        if not 0 <= after < 1 << 62:
            raise Invalid("after must be the `next` of the page before")
        page = self._bundles.write(to, after)
        return {
            "items": [base64.b64encode(item).decode("ascii") for item in page.items],
            "envelopes": page.envelopes,
            "cards": page.cards,
            "next": page.next,
        }

    async def _read(self, _caller: object, params: Params) -> Document:
        texts = params.texts("items") or []
        params.done()
        try:
            items = [base64.b64decode(text, validate=True) for text in texts]
        except ValueError as exc:  # binascii.Error, and what is not ASCII
            raise Invalid(f"items must be base64: {exc}") from None
        return asdict(await self._bundles.read(items))
