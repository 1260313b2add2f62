"""A child process: its own session, its own log, and an end no later than its starter's."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.local import child
from services.local.errors import LocalError

_ROTATE_BYTES = 16 << 20


class Process:
    """One run of a command. The log is appended to; a log that grew large is moved to ``<name>.log.1`` first.

    The child is the leader of a session of its own, so a terminal's Ctrl-C does not reach it. It is killed when the
    thread that created it ends (on Linux), or the process (elsewhere).

    Args:
        command: Absolute path of the program, and its arguments.
        log: Where standard output and standard error go.
        environment: The child's whole environment; default: this process's.
        pass_fds: File descriptors that the child keeps open.
        watcher: Whether a watcher process instead of the kernel kills the child; default: where the kernel cannot.

    Raises:
        LocalError: If the log cannot be written or the process cannot be created.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        watcher: bool = not sys.platform.startswith("linux"),
    ) -> None:
        self.log = log
        death_fd, self._alive_fd = os.pipe() if watcher else (child.NO_FD, child.NO_FD)
        starter = [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), str(death_fd)]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            if log.exists() and log.stat().st_size > _ROTATE_BYTES:
                log.replace(log.with_name(log.name + ".1"))
            with log.open("ab") as output:
                self._log_offset = output.tell()
                self._process = subprocess.Popen(  # noqa: S603 - the command comes from our own code
                    [*starter, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=(*pass_fds, death_fd) if watcher else pass_fds,
                    start_new_session=True,
                )
        except OSError as error:
            raise LocalError(f"{error.filename or log}: {error.strerror}; cannot start {command[0]}") from error
        finally:
            if watcher:
                os.close(death_fd)
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """The exit code (negative: the signal that killed it), or None while it runs. Does not block."""
        code = self._process.poll()
        if code is not None and self._alive_fd != child.NO_FD:
            os.close(self._alive_fd)
            self._alive_fd = child.NO_FD
        return code

    def terminate(self) -> None:
        """Asks the process to end (SIGTERM). Does not block."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self, limit_s: float) -> bool:
        """Asks the process to end, waits, and kills it and its own children after the limit.

        Returns:
            Whether it ended by itself.
        """
        self.terminate()
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self.exit_code()
        return True

    def kill(self) -> None:
        """Kills the process and its own children (SIGKILL), and waits for its end."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self.exit_code()

    def tail(self, lines: int = 15) -> str:
        """The last lines that this run wrote to its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_offset, log.seek(0, os.SEEK_END) - 16_384))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.rstrip().splitlines()[-lines:])


def describe_exit(code: int) -> str:
    """Words for an exit code.

    >>> describe_exit(3), describe_exit(-9)
    ('exit code 3', 'killed by SIGKILL')
    """
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
