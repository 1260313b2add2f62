"""Questions to a server that tell whether it is ready. Each blocks for about a second at most."""

import socket
import struct
from collections.abc import Callable
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

Probe = Callable[[], bool]
"""True once the server is ready; False while it is not."""

_TIMEOUT_S = 1.0
_PING = b"*1\r\n$4\r\nPING\r\n"
_API_VERSIONS = bytes.fromhex("0012 0000 00000001 0004 70696e67")
_opener = build_opener(ProxyHandler({}))


def answers_ping(host: str, port: int) -> bool:
    """Whether a Redis or Valkey answers PING; one that still loads its data does not count."""
    return _exchange(host, port, _PING).startswith(b"+PONG")


def answers_kafka(host: str, port: int) -> bool:
    """Whether a Kafka broker answers a request for its API versions."""
    return len(_exchange(host, port, struct.pack(">i", len(_API_VERSIONS)) + _API_VERSIONS)) > 4


def answers_http(url: str) -> bool:
    """Whether a GET of the URL gives status 200. Proxies of the environment are not used."""
    try:
        with _opener.open(url, timeout=_TIMEOUT_S) as response:
            return bool(response.status == 200)
    except (URLError, OSError, ValueError):
        return False


def _exchange(host: str, port: int, request: bytes) -> bytes:
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as connection:
            connection.sendall(request)
            return connection.recv(4096)
    except OSError:
        return b""
