"""Real servers for the tests that need them: an embedded Valkey, the embedded broker and, where there is one, Kafka."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.servers import start_broker, start_valkey

KAFKA_VARIABLE = "DOLMEN_TEST_KAFKA"
KAFKA_CLIENT_WARNING = "ignore:(read_text|open_text) is deprecated. Use files:DeprecationWarning"
"""kafka-python 3 loads its schemas in a way that Python 3.11 and 3.12 warn of."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", KAFKA_CLIENT_WARNING)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one Valkey for the whole run: tests share it, so each takes a key prefix of its own."""
    with start_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session", params=["embedded", "apache"])
def bootstrap_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of one broker for the whole run: tests share it, so each takes topics of its own."""
    directory = tmp_path_factory.mktemp(f"broker-{request.param}")
    if request.param == "embedded":
        with start_broker(directory) as server:
            yield server.address
        return
    script = os.environ.get(KAFKA_VARIABLE)
    if not script:
        pytest.skip(f"{KAFKA_VARIABLE} names no script that starts Apache Kafka (`start DIR` prints `host:port pid`)")
    answer = subprocess.run([script, str(directory)], check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    address, pid = answer.split()
    try:
        yield address
    finally:
        _stop(int(pid))


def _stop(pid: int) -> None:
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
