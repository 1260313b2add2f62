"""Redis servers as tests need them: Debian's redis-server with any options, and a man in the middle that moves."""

import os
import shutil
import threading
from functools import partial
from pathlib import Path
from socket import create_connection, create_server, socket

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.local.ports import free_port
from services.local.servers import Server, ServerCommand

HOST = "127.0.0.1"


def redis_server() -> str:
    """Path of redis-server. Skips the test where there is none, but not in continuous integration."""
    found = shutil.which("redis-server")
    if found is None:
        text = "redis-server is not installed (Debian: apt-get install redis-server)"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def answers(**how: object) -> bool:
    """Whether a Redis answers at all."""
    client = redis.Redis(host=HOST, socket_timeout=1, retry=Retry(NoBackoff(), 0), **how)  # type: ignore[arg-type]
    try:
        return bool(client.ping())
    except redis.AuthenticationError:
        return True
    except redis.exceptions.BusyLoadingError:
        return False
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    except redis.ResponseError:
        return True
    finally:
        client.close()


def start_redis(directory: Path, *options: str, port: int = 0, tls: dict[str, str] | None = None) -> Server:
    """Starts Debian's redis-server.

    Args:
        directory: For its data.
        options: As on its command line.
        port: 0: a free one.
        tls: What a client needs to speak TLS to it, as redis-py names it. Without: plain TCP.
    """
    directory.mkdir(exist_ok=True, parents=True)
    port = port or free_port()
    ports = ("--port", "0", "--tls-port", str(port)) if tls else ("--port", str(port))
    command = (redis_server(), *ports, "--bind", HOST, "--dir", str(directory), "--save", "", *options)
    scheme = "rediss" if tls else "redis"
    probe = partial(answers, port=port, ssl=bool(tls), **(tls or {}))
    return Server(ServerCommand("redis", command, port, probe, f"{scheme}://{HOST}:{port}/0"), directory / "redis.log")


class Relay:
    """A fixed address in front of servers that come and go, as a virtual address or a service name is.

    Attributes:
        target: The port that new connections are passed on to; None: they are refused.
    """

    def __init__(self, target: int) -> None:
        self.target: int | None = target
        self._listener = create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """As a client is configured with it."""
        return f"redis://{HOST}:{self.port}/0"

    def point_at(self, target: int | None) -> None:
        """Breaks every connection and passes new ones on to another server."""
        self.target = target
        while self._open:
            _shut(self._open.pop())

    def close(self) -> None:
        """Ends the relay."""
        _shut(self._listener)
        self.point_at(None)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.target is None:
                    raise OSError
                far = create_connection((HOST, self.target))
            except OSError:
                _shut(near)
                continue
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket, sink: socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    _shut(source)
    _shut(sink)


def _shut(some: socket) -> None:
    try:
        some.shutdown(2)
    except OSError:
        pass
    some.close()
