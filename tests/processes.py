"""Processes that are not our children."""

import os
import signal
import time
from pathlib import Path


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def end(pid: int) -> None:
    """Ends a process, by force after 20 s."""
    for number, tries in ((signal.SIGTERM, 400), (signal.SIGKILL, 100)):
        for sent in range(tries):
            if not runs(pid):
                return
            if sent == 0:
                os.kill(pid, number)
            time.sleep(0.05)
