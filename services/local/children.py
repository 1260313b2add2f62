"""A child that is started again when it ends."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.local.errors import LocalError
from services.local.lifecycle import GiveUp, Lifecycle, RestartPolicy
from services.local.probes import Probe
from services.local.process import Process, describe_exit

Say = Callable[[str], None]
"""Takes one message for the user. Must not raise."""

BAD_CONFIGURATION = 2
_FULL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How a child is started, recognised as ready, and stopped.

    Attributes:
        environment: The child's whole environment; None: this process's.
        pass_fds: File descriptors that it keeps open.
        stop_limit_s: How long it may take to end before it is killed.
    """

    name: str
    command: tuple[str, ...]
    probe: Probe
    environment: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    stop_limit_s: float = 30.0
    policy: RestartPolicy = field(default_factory=RestartPolicy)


class Child:
    """One child over all of its runs. Starts at once.

    Args:
        spec: What to run.
        log: Where its output goes.
        say: Told of deaths and restarts.

    Raises:
        LocalError: If it cannot be started at all.
    """

    def __init__(self, spec: ChildSpec, log: Path, say: Say) -> None:
        self.spec = spec
        self._log = log
        self._say = say
        self._lifecycle = Lifecycle(spec.policy, time.monotonic())
        self._restart_at_s = 0.0
        self._process: Process | None = self._run()

    @property
    def ready(self) -> bool:
        """Whether the present run is ready."""
        return self._lifecycle.ready

    @property
    def pid(self) -> int | None:
        """Process id of the present run, if there is one."""
        return None if self._process is None else self._process.pid

    def step(self) -> bool:
        """Looks at the child once, and starts it again when that is due. Blocks no longer than a probe.

        Returns:
            Whether it has just become ready.

        Raises:
            LocalError: If it is given up. The message has the end of its log.
        """
        now_s = time.monotonic()
        if self._process is None:
            if now_s >= self._restart_at_s:
                self._process = self._run()
            return False
        code = self._process.exit_code()
        if code is not None:
            self._ended(self._process, code, now_s)
        elif not self.ready:
            if self.spec.probe() and self._process.exit_code() is None:
                return self._became_ready()
            if self._lifecycle.overdue(time.monotonic()):
                limit_s = self.spec.policy.ready_limit_s
                raise self._failure(self._process, f"is not ready after {limit_s:.0f} s")
        return False

    def stop(self) -> None:
        """Ends the present run, by force only after the limit. Idempotent."""
        if self._process is None:
            return
        if not self._process.stop(self.spec.stop_limit_s):
            self._say(f"{self.spec.name} did not end within {self.spec.stop_limit_s:.0f} s and was killed")
        self._process = None

    def _run(self) -> Process:
        return Process(self.spec.command, self._log, self.spec.environment, self.spec.pass_fds)

    def _became_ready(self) -> bool:
        again = self._lifecycle.was_ready
        self._lifecycle.became_ready(time.monotonic())
        if again:
            self._say(f"{self.spec.name} is ready again (pid {self.pid})")
        return True

    def _ended(self, process: Process, code: int, now_s: float) -> None:
        decision = self._lifecycle.ended(code, now_s)
        if isinstance(decision, GiveUp):
            configuration = code == BAD_CONFIGURATION and code in self.spec.policy.fatal_codes
            what = f"ended ({describe_exit(code)}); {decision.why}"
            raise self._failure(process, what, BAD_CONFIGURATION if configuration else 1)
        last = process.tail(1) if code > 0 else ""
        said = (f": {last}" if last else "") + self._disk()
        self._say(
            f"{self.spec.name} ended ({describe_exit(code)}){said}; "
            f"starting it again in {decision.delay_s:.1f} s (log: {self._log})"
        )
        self._process = None
        self._restart_at_s = now_s + decision.delay_s

    def _failure(self, process: Process, what: str, exit_code: int = 1) -> LocalError:
        tail = process.tail()
        end = f"The end of its log {self._log}:\n{tail}" if tail else f"Its log {self._log} says nothing."
        return LocalError(f"{self.spec.name} {what}{self._disk()}. {end}", exit_code)

    def _disk(self) -> str:
        try:
            full = shutil.disk_usage(self._log.parent).free < _FULL_BYTES
        except OSError:
            return ""
        return f"; the disk of {self._log.parent} is full" if full else ""
