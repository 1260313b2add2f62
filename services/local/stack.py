"""The local stack: servers and services as children of one process that keeps them running."""

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self

from services.local.children import Child, ChildSpec, Say
from services.local.errors import Interrupted, LocalError, TopicsUnavailable
from services.local.layout import STOP_ORDER, ServiceCommand, dolmen_command, lay_out
from services.local.lock import DataDir
from services.local.ready import READY_FILE, Addresses, remove_ready, write_ready
from services.local.signals import no_interrupt
from services.local.topics import create_missing_topics
from services.settings import Settings

_TICK_S = 0.05
_NOTICE_S = 15.0
_KAFKA_LIMIT_S = 30.0


class LocalStack:
    """Redis, Kafka, joiner, trainer and ranker on this machine; of the first two, only what no URL is configured for.

    Where `archive.path` is set, the archiver too.

    Use it as a context manager: entering starts everything, leaving stops everything, in order. In between either call
    :meth:`wait`, which keeps the children running until :meth:`request_stop`, or :meth:`supervise`, which does so in a
    background thread. Enter it on a thread that lives as long as the stack, best the main thread.

    Args:
        settings: The effective settings.
        config: The ``dolmen.toml`` that the services read; None: they look for themselves.
        data_dir: Where Redis keeps its data, and where logs and ``ready.json`` go.
        ready_file: A second place for ``ready.json``.
        say: Told what happens; default: standard error.
        command: The commands of the services; default: this installation's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        config: Path | None = None,
        data_dir: Path = Path(".dolmen"),
        ready_file: Path | None = None,
        say: Say | None = None,
        command: ServiceCommand | None = None,
    ) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._ready_file = ready_file
        self._say = say or _say_to_stderr
        self._command = command or dolmen_command(config, data_dir)
        self._directory: DataDir | None = None
        self._children: dict[str, Child] = {}
        self._addresses: Addresses | None = None
        self._stop_requested = False
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def addresses(self) -> Addresses:
        """Where everything is, with the present process ids.

        Raises:
            LocalError: If the stack is not started.
        """
        if self._addresses is None:
            raise LocalError("the local stack is not started")
        return replace(self._addresses, pids={name: c.pid for name, c in self._children.items() if c.pid is not None})

    def start(self) -> Addresses:
        """Starts everything and returns once all are ready. Blocks.

        Raises:
            LocalError: If something cannot be started; everything is stopped again then.
            Interrupted: If :meth:`request_stop` was called meanwhile; likewise.
        """
        try:
            if self._ready_file is not None and not self._ready_file.parent.is_dir():
                raise LocalError(f"{self._ready_file}: its folder does not exist; create it, or change --ready-file")
            directory = self._directory = DataDir(self._data_dir)
            for path in self._ready_paths():
                remove_ready(path)
            layout = lay_out(self._settings, directory.path, self._command, directory.fd)
            self._bring_up(layout.servers)
            if not any(spec.name == "kafka" for spec in layout.servers):
                self._create_topics(layout.addresses.bootstrap_servers)
            self._bring_up(layout.services)
            self._addresses = layout.addresses
            self._write_ready()
        except BaseException:
            self.stop()
            raise
        return self.addresses

    def wait(self) -> None:
        """Keeps the children running, in this thread, until :meth:`request_stop`.

        Raises:
            LocalError: If a child is given up.
        """
        while not self._stop_requested:
            self._step()
            time.sleep(_TICK_S)

    def supervise(self) -> None:
        """Keeps the children running, in a background thread, until :meth:`stop`. See :meth:`check`."""
        self._thread = threading.Thread(target=self._supervise, name="local-stack", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Tells whether the background thread had to give up.

        Raises:
            LocalError: If a child was given up; everything is stopped, or about to be.
        """
        if self._failure is not None:
            raise self._failure

    @property
    def stop_requested(self) -> bool:
        """Whether :meth:`request_stop` or :meth:`stop` was called."""
        return self._stop_requested

    def request_stop(self) -> None:
        """Makes `start` and `wait` return soon. Safe in a signal handler; stops nothing by itself."""
        self._stop_requested = True

    def stop(self) -> None:
        """Stops the children in their order (`STOP_ORDER`) and waits for each. Idempotent."""
        self._stop_requested = True
        with no_interrupt():
            if self._thread is not None:
                self._thread.join()
            self._stop_children()
            if self._directory is not None:
                self._directory.release()
                self._directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _supervise(self) -> None:
        try:
            self.wait()
        except Exception as error:
            self._failure = error
        finally:  # Children that this thread started must end before it does.
            self._stop_children()

    def _bring_up(self, specs: Iterable[ChildSpec]) -> None:
        for spec in specs:
            self._children[spec.name] = Child(spec, self._log(spec.name), self._say)
        notice_s = time.monotonic() + _NOTICE_S
        while not all(child.ready for child in self._children.values()):
            if self._stop_requested:
                raise Interrupted
            for child in self._children.values():
                child.step()
            if time.monotonic() > notice_s:
                notice_s += _NOTICE_S
                waiting = [f"{name} (log: {self._log(name)})" for name, c in self._children.items() if not c.ready]
                self._say("still waiting for " + ", ".join(waiting))
            time.sleep(_TICK_S)

    def _create_topics(self, bootstrap_servers: str) -> None:
        limit_s = time.monotonic() + _KAFKA_LIMIT_S
        while not self._stop_requested:
            try:
                create_missing_topics(self._settings.events, bootstrap_servers)
                return
            except TopicsUnavailable as error:
                if time.monotonic() > limit_s:
                    remedy = "Check `events.bootstrap_servers`, or remove it for the embedded broker."
                    raise LocalError(f"{error}. {remedy}") from error
            time.sleep(0.5)
        raise Interrupted

    def _step(self) -> None:
        """One look at every child; the ready file is written again when one came back."""
        if any([child.step() for child in self._children.values()]):
            try:
                self._write_ready()
            except LocalError as error:
                self._say(str(error))

    def _write_ready(self) -> None:
        for path in self._ready_paths():
            write_ready(path, self.addresses)

    def _stop_children(self) -> None:
        if not self._children:
            return
        self._say("stopping " + ", ".join(name for name in STOP_ORDER if name in self._children))
        for path in self._ready_paths():
            try:
                remove_ready(path)
            except LocalError as error:
                self._say(str(error))
        for name in STOP_ORDER:
            if name in self._children:
                self._children.pop(name).stop()

    def _ready_paths(self) -> list[Path]:
        own = (self._directory.path if self._directory else self._data_dir) / READY_FILE
        return [own] if self._ready_file is None or self._ready_file.resolve() == own else [own, self._ready_file]

    def _log(self, name: str) -> Path:
        return (self._directory.path if self._directory else self._data_dir) / "logs" / f"{name}.log"


def _say_to_stderr(text: str) -> None:
    try:
        print(f"dolmen: {text}", file=sys.stderr, flush=True)
    except OSError:
        return
