"""How a process tells Prometheus about itself."""

import logging
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

_log = logging.getLogger(__name__)


class Exporter:
    """A process's metrics, in a registry of their own, and the page that shows them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._server: WSGIServer | None = None

    def serve(self, host: str, port: int) -> None:
        """Opens ``/metrics``, unless it is open."""
        if self._server is None:
            self._server, _ = start_http_server(port, host, self.registry)
            _log.info("metrics on http://%s:%d/metrics", host, self._server.server_port)

    def close(self) -> None:
        """Closes ``/metrics``."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
