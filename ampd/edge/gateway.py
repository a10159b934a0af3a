"""The gateway: the two foreign HTTP protocols on one port, and the way out to their other servers.

  W1  What a service does without being asked runs as long as the server does, and ends with it.
  W2  As a Courier, the gateway asks each service in turn whether it reaches an address, and hands a
      parcel to the one that said yes.

Not here: which protocol a path belongs to (gateway_paths.py), HTTP (http/), the protocols (amp/,
amtp/), the rooms they write to (core/).
"""

import socket
from collections.abc import Sequence

import trio

from ampd.core.ports import Parcel
from ampd.edge.amp.service import AmpService
from ampd.edge.amtp.service import AmtpService
from ampd.edge.bugs import contained
from ampd.edge.gateway_app import application, tls_context
from ampd.edge.gateway_values import Shared
from ampd.edge.http.server import Server
from ampd.model.address import Address
from ampd.model.errors import Refused
from ampd.model.message import Delivery


class Gateway:
    """Both services behind one HTTP server."""

    def __init__(self, shared: Shared) -> None:
        self._values = shared.values
        self.amp = AmpService(shared)
        self.amtp = AmtpService(shared)
        self.app = application(shared.values, self._services())

    async def run(
        self, bound: socket.socket, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve on a listening socket until cancelled (W1)."""
        server = Server(self.app, bound, tls_context(self._values))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.amp.run)
            nursery.start_soon(self.amtp.run)
            await nursery.start(server.run)
            task_status.started()

    async def find(self, address: Address) -> str:
        """The protocol by which an address elsewhere can be reached, or "" (W2)."""
        for service in self._services():
            with contained(f"finding by {service.name}"):
                found = await service.find(address)
            if found:
                return service.name
        return ""

    async def carry(self, protocol: str, parcel: Parcel) -> Delivery:
        """Hand a parcel to the other server (W2). Refused: for good; Unavailable: later."""
        for service in self._services():
            if service.name == protocol:
                with contained(f"carrying by {service.name}"):  # a bug is tried again later
                    return await service.carry(parcel)
        raise Refused(f"there is no way to {parcel.recipient} any more: no {protocol!r} here")

    def _services(self) -> Sequence[AmpService | AmtpService]:
        return (self.amp, self.amtp)
