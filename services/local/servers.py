"""The embedded servers: how they are run, and a handle on one that runs alone."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.local.binaries import broker_binary, valkey_binary
from services.local.errors import LocalError
from services.local.ports import claim_port
from services.local.probes import Probe, answers_kafka, answers_ping
from services.local.process import Process, describe_exit

HOST = "127.0.0.1"
_READY_LIMIT_S = 60.0
_STOP_LIMIT_S = 30.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How a server is started, again and again, at one address."""

    name: str
    command: tuple[str, ...]
    port: int
    probe: Probe
    url: str


def valkey_command(directory: Path, port: int = 0) -> ServerCommand:
    """The embedded Valkey: append-only file, synced every second, never evicting.

    Args:
        directory: Where its data is kept; created if missing.
        port: Loopback port; 0: a free one, chosen now.

    Raises:
        LocalError: If the binary is missing, the port is taken or the directory cannot be made.
    """
    options = {
        "--bind": HOST,
        "--port": str(port := claim_port(HOST, port, "local.redis_port")),
        "--dir": str(_made(directory)),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        "--hash-max-listpack-value": "256",
        "--daemonize": "no",
    }
    words = [word for option in options.items() for word in option]
    probe = partial(answers_ping, HOST, port)
    return ServerCommand("redis", (str(valkey_binary()), *words), port, probe, f"redis://{HOST}:{port}/0")


def broker_command(port: int = 0) -> ServerCommand:
    """The embedded Kafka-compatible broker. It keeps everything in memory.

    Args:
        port: Loopback port; 0: a free one, chosen now.

    Raises:
        LocalError: If the binary is missing or the port is taken.
    """
    address = f"{HOST}:{(port := claim_port(HOST, port, 'local.kafka_port'))}"
    command = (
        str(broker_binary()),
        "broker",
        *("--storage-engine", "memory://tansu/"),
        *("--listener-url", f"tcp://{address}"),
        *("--advertised-listener-url", f"tcp://{address}"),
    )
    return ServerCommand("kafka", command, port, partial(answers_kafka, HOST, port), address)


class Server:
    """A server that runs until it is stopped, killed, or the starting process ends.

    Attributes:
        address: ``host:port``. It stays the same over restarts.
        url: ``redis://…`` of a Valkey; ``host:port`` of a broker.
    """

    def __init__(self, command: ServerCommand, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.address = f"{HOST}:{command.port}"
        self.url = command.url
        self._command = command
        self._log = log
        self._environment = environment
        self._process = self._run()

    @property
    def pid(self) -> int:
        """Process id of the present run."""
        return self._process.pid

    def stop(self) -> None:
        """Stops the server cleanly. A stopped one stays so."""
        self._process.stop(_STOP_LIMIT_S)

    def kill(self) -> None:
        """Crashes the server (SIGKILL)."""
        self._process.kill()

    def restart(self) -> None:
        """Starts a server that was stopped or killed at its old address, and waits until it is ready."""
        self.stop()
        self._process = self._run()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> Process:
        process = Process(self._command.command, self._log, self._environment)
        limit = time.monotonic() + _READY_LIMIT_S
        while not self._command.probe():
            code = process.exit_code()
            if code is not None or time.monotonic() > limit:
                process.kill()
                reason = "is not ready in time" if code is None else f"ended ({describe_exit(code)})"
                raise LocalError(f"{self._command.name} {reason}; the end of {self._log}:\n{process.tail()}")
            time.sleep(_POLL_S)
        return process


def start_valkey(directory: Path, port: int = 0) -> Server:
    """Starts an embedded Valkey and returns once it answers.

    Args:
        directory: Where its data and its log are kept. One that was used before keeps its data.
        port: Loopback port; 0: a free one.

    Raises:
        LocalError: If it cannot be started.
    """
    return Server(valkey_command(directory, port), directory / "valkey.log")


def start_broker(directory: Path, port: int = 0) -> Server:
    """Starts an embedded broker and returns once it answers. A restarted one has lost all topics.

    Args:
        directory: Where its log is kept.
        port: Loopback port; 0: a free one.

    Raises:
        LocalError: If it cannot be started.
    """
    return Server(broker_command(port), _made(directory) / "broker.log")


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(f"{directory}: cannot be created: {error.strerror}") from error
    return directory.resolve()
