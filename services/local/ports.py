"""Ports on the loopback interface."""

import errno
import random
import socket
from contextlib import closing
from pathlib import Path

from services.local.errors import LocalError

_LOWEST = 20_000
_EPHEMERAL_DEFAULT = 32_768


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on, below the range that the kernel gives to outgoing connections.

    A client that retries a dead server inside that range can connect to itself and so take the server's port away.

    Raises:
        LocalError: If the host has no free port, or is no address of this machine.
    """
    end = _ephemeral_start()
    for _ in range(100 if end - _LOWEST > 1000 else 0):
        port = random.randrange(_LOWEST, end)  # noqa: S311 - any free port will do
        if _fault(host, port) is None:
            return port
    with closing(socket.socket(_family(host), socket.SOCK_STREAM)) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise LocalError(f"{host}: no free port: {error.strerror}") from error
        return int(probe.getsockname()[1])


def claim_port(host: str, port: int, key: str) -> int:
    """The configured port if it can be listened on; a free one for 0.

    Args:
        host: Address to listen on.
        port: The configured port; 0: a free one.
        key: The setting that holds the port.

    Raises:
        LocalError: If the port is taken or not allowed; the message names port, key and remedy.
    """
    if port == 0:
        return free_port(host)
    fault = _fault(host, port)
    if fault is None:
        return port
    variable = f"DOLMEN_{key.upper().replace('.', '__')}"
    reason = "is taken by another process" if fault.errno == errno.EADDRINUSE else f"cannot be used: {fault.strerror}"
    raise LocalError(
        f"port {port} of {host} {reason}. "
        f"Set `{key}` in dolmen.toml (or {variable}) to another port, or to 0 for a free one."
    )


def _fault(host: str, port: int) -> OSError | None:
    with closing(socket.socket(_family(host), socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _ephemeral_start() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_DEFAULT
