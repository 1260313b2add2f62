"""Apache Kafka as the tests run it: by the script that DOLMEN_TEST_KAFKA names."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "DOLMEN_TEST_KAFKA"


@contextmanager
def apache_kafka(script: str, directory: Path) -> Iterator[str]:
    """Its address. When the context ends, so has the broker.

    Args:
        script: Called with the directory, it prints `host:port pid`.
        directory: Of its log.
    """
    answer = subprocess.run([script, str(directory)], check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    address, pid = answer.split()
    try:
        yield address
    finally:
        _end(int(pid))


def _end(pid: int) -> None:
    """Ends a process that is not our child, by force after 20 s."""
    for number, tries in ((signal.SIGTERM, 400), (signal.SIGKILL, 100)):
        for sent in range(tries):
            if not _runs(pid):
                return
            if sent == 0:
                os.kill(pid, number)
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
