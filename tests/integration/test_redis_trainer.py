"""A trainer process on a Redis that evicts, and on one that is full."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from embedding_store.inspection import verify
from services.local.servers import Server, start_valkey
from tests.e2e.storm import Store, TrainerProcess, finish, wait_for, write_stream

EXAMPLES = 10_000


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    with start_valkey(tmp_path / "valkey") as server:
        yield server


@pytest.mark.parametrize("bootstrap_servers", ["embedded"], indirect=True)
def test_a_trainer_on_a_server_that_evicts_ends_for_good_and_says_what_to_do(tmp_path, valkey, bootstrap_servers):
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        trainer = TrainerProcess(tmp_path, valkey.url, bootstrap_servers, "evicting")
        assert trainer.process.wait(60) == 3, trainer.tail()
        assert "CONFIG SET maxmemory-policy noeviction" in trainer.tail()
        assert client.dbsize() == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bootstrap_servers", ["embedded"], indirect=True)
def test_a_trainer_whose_store_is_full_says_so_and_loses_nothing(tmp_path, valkey, bootstrap_servers):
    topic = f"full-{uuid.uuid4().hex[:8]}"
    messages = write_stream(bootstrap_servers, topic, EXAMPLES)
    names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": topic, "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead"}
    calm = Store(valkey.url, f"{topic}-calm")
    finish(calm, TrainerProcess(tmp_path, valkey.url, bootstrap_servers, f"{topic}-calm", **names), topic, messages)

    store = Store(valkey.url, topic)
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + (1 << 20))
        trainer = TrainerProcess(tmp_path, valkey.url, bootstrap_servers, topic, **names)
        wait_for("message", lambda: "waiting for the store, nothing is lost" in trainer.log.read_text(), trainer)
        assert "maxmemory" in trainer.log.read_text()
        assert sum(store.offsets(topic).values()) < messages
        client.config_set("maxmemory", 0)
    finish(store, trainer, topic, messages)
    assert store.dump(tmp_path / "full.dump") == calm.dump(tmp_path / "calm.dump")
    assert verify(store.log).faults == []
