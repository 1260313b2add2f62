"""Real servers for the tests that need them: an embedded Valkey, the embedded broker and, where there is one, Kafka."""

import os
from collections.abc import Iterator

import pytest

from services.local.servers import start_broker, start_valkey
from tests import apache_kafka

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
    script = os.environ.get(apache_kafka.VARIABLE)
    if not script:
        pytest.skip(
            f"{apache_kafka.VARIABLE} names no script that starts Apache Kafka (`start DIR` prints `host:port pid`)"
        )
    with apache_kafka.apache_kafka(script, directory) as address:
        yield address
