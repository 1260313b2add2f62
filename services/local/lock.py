"""The data directory belongs to one stack at a time."""

import fcntl
import os
import shutil
import time
from pathlib import Path

from services.local.errors import LocalError

_RUNNING_LIMIT_S = 0.5
_LEAVING_LIMIT_S = 5.0
_NEEDED_BYTES = 32 << 20


class DataDir:
    """A locked data directory. The lock ends with its last holder, so a Redis that inherits `fd` keeps it too.

    Args:
        path: Created if missing.

    Raises:
        LocalError: If another stack holds it, it cannot be written, or its disk is full.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.path = path.resolve()
            self.fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LocalError(
                f"the data directory {path} cannot be used: {error.strerror}; choose another one with --data-dir"
            ) from error
        try:
            self._acquire()
            self._write_pid()
        except BaseException:
            os.close(self.fd)
            raise

    def release(self) -> None:
        """Gives the directory up."""
        os.close(self.fd)

    def _acquire(self) -> None:
        began_s = time.monotonic()
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pid = self._holder()
            except OSError as error:
                raise LocalError(f"{self.path / 'lock'}: cannot be locked: {error.strerror}") from error
            running = pid is None or _runs(pid)
            if time.monotonic() - began_s > (_RUNNING_LIMIT_S if running else _LEAVING_LIMIT_S):
                holder = "another `dolmen up`" if running else "what is left of a `dolmen up`"
                raise LocalError(
                    f"the data directory {self.path} is in use by {holder} (pid {pid or 'unknown'}); "
                    "stop it, or choose another one with --data-dir"
                )
            time.sleep(0.05)

    def _holder(self) -> int | None:
        text = os.pread(self.fd, 32, 0).strip()
        return int(text) if text.isdigit() else None

    def _write_pid(self) -> None:
        try:
            free_bytes = shutil.disk_usage(self.path).free
            if free_bytes < _NEEDED_BYTES:
                raise LocalError(
                    f"the disk of {self.path} is full: {free_bytes / 1e6:.1f} MB are free and "
                    f"{_NEEDED_BYTES / 1e6:.0f} MB are needed; make room, or choose another place with --data-dir"
                )
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise LocalError(f"the data directory {self.path} cannot be written: {error.strerror}") from error


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
