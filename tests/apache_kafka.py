"""Apache Kafka as the tests run it: by the script that DOLMEN_TEST_KAFKA names."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import end

VARIABLE = "DOLMEN_TEST_KAFKA"


def start(script: str, directory: Path) -> tuple[str, int]:
    """Starts it; returns its address and process id.

    Args:
        script: Called with the directory, it prints `host:port pid`.
        directory: Of its log.
    """
    answer = subprocess.run([script, str(directory)], check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    address, pid = answer.split()
    return address, int(pid)


@contextmanager
def apache_kafka(script: str, directory: Path) -> Iterator[str]:
    """Its address. When the context ends, so has the broker. Arguments as of :func:`start`."""
    address, pid = start(script, directory)
    try:
        yield address
    finally:
        end(pid)
