"""The application behind the gateway's port: the services, who may ask, and how much.

Not here: which services there are (gateway.py).
"""

import ssl
from collections.abc import Sequence
from typing import Final

from ampd.edge.gateway_paths import AMP, AMTP, belongs_to
from ampd.edge.gateway_values import GatewayValues
from ampd.edge.http.app import App
from ampd.edge.http.guard import Guard
from ampd.edge.http.server import Tls, check_exposure
from ampd.edge.http.words import Service
from ampd.model.errors import Invalid

# Bytes of a request. AMP's clients send at most a full message; AMTP's draft allows 10 MB of
# payload, and its envelope around it has room beside.
LARGEST: Final = {AMP: 1 << 20, AMTP: (10 << 20) + (64 << 10)}


def application(values: GatewayValues, services: Sequence[Service]) -> App:
    """One App over the services of both protocols."""
    names = (values.listen[0], values.node_domain, values.amp_domain, values.amtp_domain)
    return App(services, belongs_to, Guard((*names, *values.hosts)), LARGEST)


def tls_context(values: GatewayValues) -> ssl.SSLContext | None:
    """The server's TLS, if it has any; Invalid if the files or the address do not fit."""
    tls = None
    if (values.certificate is None) != (values.key is None):
        raise Invalid(
            "gateway.certificate and gateway.key belong together, and one of them is not set",
            hint="set both to PEM files, or none",
        )
    if values.certificate is not None and values.key is not None:
        tls = Tls(values.certificate, values.key).context()
    check_exposure(values.listen, tls=tls is not None, plain_http=values.plain_http)
    return tls
