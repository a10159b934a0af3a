"""Figures for Prometheus, and whether this process is alive and ready, over plain HTTP on request.

    GET /metrics    the Prometheus text format (prometheus-client)
    GET /healthz    200 while the process runs
    GET /readyz     200 when it serves, else 503 with the reason

For operators, on an address that they choose; nothing of mail or keys is shown. The standard
library's server in a thread is enough: somebody asks every few seconds.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ampd.model.errors import Invalid, Unavailable

_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_HANGS_UP_AFTER: Final = 10.0  # seconds that a caller may take to say what it wants

Figures = Mapping[str, float]  # name, as it ends in "_total" (a counter) or not (a gauge) -> value
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = _HANGS_UP_AFTER

    def log_message(self, *_: object) -> None:
        """Health checks are no events."""


def check_package() -> None:
    """Invalid where what serves the figures is not installed."""
    try:
        import prometheus_client  # noqa: F401 - only whether it is there
    except ImportError:
        raise Invalid(
            "metrics need the package prometheus-client", hint="pip install 'ampd-node[metrics]'"
        ) from None


class Metrics:
    """Serves the figures of one process at an address, from `start` to `stop`."""

    def __init__(
        self,
        listen: tuple[str, int],
        prefix: str,
        figures: Callable[[], Figures],
        not_ready: Callable[[], str],
    ) -> None:
        """`figures` is called in another thread; `not_ready` says why, or ""."""
        check_package()
        from prometheus_client import CollectorRegistry

        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(prefix, figures))
        self._not_ready = not_ready
        host, port = listen
        try:
            self._server = make_server(
                host, port, self._answer, server_class=_Server, handler_class=_Quiet
            )
        except OSError as exc:
            raise Unavailable(f"cannot listen for metrics on {host}:{port}: {exc}") from exc
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="ampd-metrics", daemon=True
        )

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        from prometheus_client import exposition

        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            start("405 Method Not Allowed", [_TEXT, ("Allow", "GET, HEAD")])
            return [b"only GET\n"]
        if path == "/metrics":
            start("200 OK", [("Content-Type", exposition.CONTENT_TYPE_LATEST)])
            return [exposition.generate_latest(self._registry)]
        if path == "/healthz":
            start("200 OK", [_TEXT])
            return [b"alive\n"]
        if path == "/readyz":
            reason = self._not_ready()
            start("503 Service Unavailable" if reason else "200 OK", [_TEXT])
            return [f"{reason or 'ready'}\n".encode()]
        start("404 Not Found", [_TEXT])
        return [b"/metrics, /healthz, /readyz\n"]


class _Collector:
    """Makes one metric family of each figure, at the moment that somebody asks."""

    def __init__(self, prefix: str, figures: Callable[[], Figures]) -> None:
        self._prefix = prefix
        self._figures = figures

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, value in self._figures().items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            text = name.removesuffix("_total").replace("_", " ")
            yield kind(f"{self._prefix}_{name.removesuffix('_total')}", text, value=value)
