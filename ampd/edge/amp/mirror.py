"""Mail for AMP clients on this machine, put into the inbox folders that they list (mirror = true).

AI Maestro writes into its agents' folders itself, and its users only ever run `amp-inbox`, which
asks nobody. Off unless gateway.mirror is set.

  MI1  Only agents with an account get theirs mirrored, and only into the folder that holds the
       very key that they registered with (client_folder.py, CF1).
  MI2  What is in the folder, synced, is acknowledged here: it has left the queue, as if the client
       had fetched it, and stays in `amp inbox --all`. Nothing is acknowledged before.
  MI3  The clients show what lies in the folder as it is: a message that is not `verified` is
       wrapped, as they wrap what they fetch themselves.
  MI4  A folder or a disk that fails is tried again, and keeps no other agent waiting.

Not here: files (client_folder.py), how a message looks (rendering.py).
"""

import logging
from pathlib import Path
from typing import Final

import trio

from ampd.core.agents import Agent
from ampd.core.safety import wrap
from ampd.edge.amp import client_folder
from ampd.edge.amp.accounts import Account, Accounts
from ampd.edge.amp.rendering import Document, Rendering
from ampd.edge.gateway_mail import GatewayMail
from ampd.model.errors import AmpdError
from ampd.model.message import id_from_text
from ampd.protocol import raw_json

LOOK_EVERY: Final = 30.0  # seconds between looks for folders: a client may be set up at any time
PAGE: Final = 20  # messages at a time: with 512 KiB each

log = logging.getLogger("ampd.amp.mirror")


class Mirror:
    """Copies what waits for accounts into their folders."""

    def __init__(
        self, accounts: Accounts, rendering: Rendering, mail: GatewayMail, home: Path
    ) -> None:
        self._accounts = accounts
        self._rendering = rendering
        self._mail = mail
        self._home = home
        self._followed: dict[str, str] = {}  # account -> folder

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                found = await trio.to_thread.run_sync(client_folder.folders, self._home)
                for account in self._accounts.all() if found else ():
                    folder = found.get(account.key.spki)
                    if folder is not None and account.name not in self._followed:
                        self._followed[account.name] = folder
                        nursery.start_soon(self._follow, account, folder)
                await trio.sleep(LOOK_EVERY)

    async def _follow(self, account: Account, folder: str) -> None:
        """Until the account is gone, or has another key."""
        try:
            while (now := self._accounts.of(account.name)) and now.key == account.key:
                agent = self._accounts.agent(now)
                news = self._mail.news(agent)
                try:
                    await self.copy(agent, folder)
                except (OSError, AmpdError) as exc:  # MI4
                    log.warning(
                        "mail cannot be mirrored now",
                        extra={"agent": account.name, "why": str(exc)},
                    )
                    await trio.sleep(LOOK_EVERY)
                    break  # the folder may have moved: `run` looks again
                await news.wait()
        finally:
            del self._followed[account.name]

    async def copy(self, agent: Agent, folder: str) -> int:
        """Copy what waits for an agent (MI2); how many messages. Raises OSError or AmpdError."""
        copied = after = 0
        while True:
            page = self._mail.page(agent, PAGE, after)
            for piece in page.pieces:
                item = self._rendering.item(agent, piece)
                said = item["envelope"]
                await trio.to_thread.run_sync(
                    client_folder.put, self._home, folder, str(said["from"]), str(said["id"]),
                    _file(item),
                )  # fmt: skip
                await self._mail.acknowledge(agent, [id_from_text(piece.summary.id)])
                copied += 1
            if not page.next:
                return copied
            after = page.next


def _file(item: Document) -> str:
    """A message as the clients keep it (MI3)."""
    envelope, security = item["envelope"], dict(item["local"]["security"])
    payload = raw_json.parse(raw_json.write(item["payload"]))
    trust = str(security["trust"])
    if trust != "verified":
        found = {"source": "agent", "sender": str(envelope["from"]), "trust": trust}
        payload["message"] = wrap(
            str(payload["message"]), flags=security["injection_flags"], **found
        )
        security["wrapped"] = True
    local = {
        "received_at": item["queued_at"],
        "status": "unread",
        "read_at": None,
        "delivery_method": "local",
        "verified": trust != "untrusted",  # section 04's word, and that of the clients
        "signature_verified": trust != "untrusted",
        "security": security,
    }
    return raw_json.write({"envelope": envelope, "payload": payload, "local": local}) + "\n"
