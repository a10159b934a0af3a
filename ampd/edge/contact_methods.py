"""The methods of the address book: `contact.*`, each one call of core/contacts.py."""

from collections.abc import Awaitable, Callable, Sequence

from ampd.core.agents import Agents
from ampd.core.contacts import Contacts
from ampd.core.trust import Known
from ampd.edge import documents
from ampd.edge.documents import Document
from ampd.edge.params import Params
from ampd.model.address import Address

Change = Callable[[str], Awaitable[list[Known]]]


class ContactMethods:
    """Takes the parameters, asks the address book, and answers with the contacts in question."""

    def __init__(self, contacts: Contacts, agents: Agents) -> None:
        self._contacts = contacts
        self._agents = agents
        changes: dict[str, Change] = {
            "contact.block": lambda address: contacts.block(address, blocked=True),
            "contact.unblock": lambda address: contacts.block(address, blocked=False),
            "contact.accept": contacts.accept,
            "contact.remove": contacts.remove,
        }
        self.table: dict[str, Callable[[object, Params], Awaitable[Document]]] = {
            "contact.add": self._add,
            "contact.list": self._list,
            "contact.show": self._show,
            "contact.verify": self._verify,
            **{name: self._of_address(change) for name, change in changes.items()},
        }

    def _document(self, known: Sequence[Known]) -> Document:
        ours = {each.address for each in known if self._agents.claims(Address.parse(each.address))}
        return documents.contacts(known, ours)

    async def _add(self, _caller: object, params: Params) -> Document:
        link = params.required("link")
        params.done()
        return self._document(await self._contacts.add(link))

    async def _list(self, _caller: object, params: Params) -> Document:
        params.done()
        return self._document(self._contacts.listed())

    async def _show(self, _caller: object, params: Params) -> Document:
        address = params.required("address")
        params.done()
        return self._document(self._contacts.listed(address))

    async def _verify(self, _caller: object, params: Params) -> Document:
        address, said = params.required("address"), params.required("fingerprint")
        params.done()
        return self._document(await self._contacts.verify(address, said))

    def _of_address(self, change: Change) -> Callable[[object, Params], Awaitable[Document]]:
        async def method(_caller: object, params: Params) -> Document:
            address = params.required("address")
            params.done()
            return self._document(await change(address))

        return method
