"""Redis' memory: what evicts is refused, what is full is waited for, and rows take little more than their bytes."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from embedding_store.bootstrap import Snapshot
from embedding_store.codec import Block, entry_dtype
from embedding_store.commit import ROOT, Commit, CommitId, encode
from embedding_store.errors import ServerEvicts, StoreUnavailable
from embedding_store.inspection import describe
from embedding_store.layout import Size
from embedding_store.materializer import Materializer
from embedding_store.owner import Owner
from embedding_store.redis_client import Client
from embedding_store.rows import read_sizes
from embedding_store.server import keep_hashes_small, refuse_eviction
from embedding_store.shard import Shard
from services.local.servers import Server, start_valkey
from tests.integration.test_owner import change, wait_for
from tests.servers import start_redis
from tests.shards import SEED, TABLES, WIDE, definition, dump_of, hashes_of, keys_of, log_of, see, settings_for, stored

SECRET = "of no worth"  # noqa: S105 - of a user that the test makes


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with start_valkey(tmp_path) if request.param == "valkey" else start_redis(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused_before_anything_is_changed(server, client, policy):
    client.config_set("maxmemory-policy", policy)
    settings = settings_for(server.url)
    owner = Owner(settings)
    with pytest.raises(ServerEvicts, match=f"{policy}.*CONFIG SET maxmemory-policy noeviction"):
        owner.open()
    assert keys_of(log_of(settings)) == []
    client.config_set("maxmemory-policy", "noeviction")
    assert owner.open() is None
    owner.close()


@pytest.mark.parametrize(
    ("commands", "tells"), [("+info", True), ("+config|get", True), ("", False)], ids=["INFO", "CONFIG GET", "neither"]
)
def test_the_policy_is_found_by_whatever_the_user_may_ask(server, client, commands, tells, caplog):
    client.config_set("maxmemory-policy", "allkeys-lfu")
    client.execute_command("ACL", "SETUSER", "poor", "on", f">{SECRET}", "~*", "-@all", *commands.split())
    with redis.Redis.from_url(server.url, username="poor", password=SECRET) as poor:
        if tells:
            with pytest.raises(ServerEvicts, match="allkeys-lfu"):
                refuse_eviction(poor)
        else:
            refuse_eviction(poor)
            assert "does not tell its maxmemory-policy" in caplog.text


def fill(server: Server, rows: int = 6000, **changes: object) -> tuple[bytes, list[bytes]]:
    """Commits and folds a table; gives what is stored and how the server keeps the hashes."""
    settings = settings_for(server.url, fold_interval="20ms", **changes)
    log = log_of(settings)
    owner = Owner(settings)
    owner.open()
    shard = Shard(TABLES, SEED)
    see(shard, [[key, key] for key in range(rows)])
    owner.commit(change(shard, 0))
    wait_for(lambda: owner.unfolded_bytes == 0, "folding")
    owner.close()
    kinds = {log.client.object("encoding", key) for table in TABLES for key in hashes_of(log, table.name)}
    assert read_sizes(log)["wide"] == Size(47, 6001)
    return stored(log), sorted(kinds)


def test_the_servers_limit_is_raised_where_it_may_be_and_matters_for_size_only(server, client, caplog):
    caplog.set_level(logging.INFO)
    client.config_set("hash-max-listpack-value", 8)
    large, kinds = fill(server, tune_server=False)
    assert kinds == [b"hashtable"]
    assert client.config_get("hash-max-listpack-value") == {"hash-max-listpack-value": "8"}
    small, kinds = fill(server)
    assert kinds == [b"listpack"]
    assert client.config_get("hash-max-listpack-value") == {"hash-max-listpack-value": "256"}
    assert "CONFIG SET hash-max-listpack-value 256, it was 8" in caplog.text
    assert small == large


def test_a_limit_that_may_not_be_raised_is_left_and_one_that_is_high_enough_too(server, client, caplog):
    caplog.set_level(logging.INFO)
    client.config_set("hash-max-listpack-value", 64)
    client.execute_command("ACL", "SETUSER", "poor", "on", f">{SECRET}", "~*", "-@all", "+config|get")
    with redis.Redis.from_url(server.url, username="poor", password=SECRET) as poor:
        keep_hashes_small(poor)
    assert "does not let us" in caplog.text
    assert client.config_get("hash-max-listpack-value") == {"hash-max-listpack-value": "64"}
    client.config_set("hash-max-listpack-value", 1000)
    keep_hashes_small(client)
    assert client.config_get("hash-max-listpack-value") == {"hash-max-listpack-value": "1000"}


def test_an_owner_whose_store_is_full_waits_and_goes_on_with_nothing_lost(server, client):
    settings = settings_for(server.url, fold_interval="20ms", log_bytes="64MiB")
    log = log_of(settings)
    reasons: list[str] = []
    full = threading.Event()

    def waiting(error: StoreUnavailable) -> None:
        reasons.append(str(error))
        full.set()

    owner = Owner(settings, waiting)
    owner.open()
    shard = Shard(TABLES, SEED)
    client.config_set("maxmemory", client.info("memory")["used_memory"] + (4 << 20))
    commits = 40

    def run() -> None:
        for round_ in range(commits):
            owner.commit(change(shard, round_, ballast=300_000))

    thread = threading.Thread(target=run)
    thread.start()
    assert full.wait(30)
    assert thread.is_alive()
    assert owner.head < CommitId(commits, 1)
    before = owner.head
    client.config_set("maxmemory", 0)
    thread.join(30)
    assert not thread.is_alive()
    assert before < owner.head == CommitId(commits, 1)
    assert any("OOM" in reason or "maxmemory" in reason for reason in reasons)
    wait_for(lambda: owner.unfolded_bytes == 0, "folding")
    reference = Shard(TABLES, SEED)
    last = [change(reference, round_, ballast=300_000) for round_ in range(commits)][-1]
    assert stored(log) == dump_of(
        Snapshot(reference, owner.head, last.definition, dict(last.positions), dict(last.parts))
    )
    owner.close()


def test_rows_of_width_16_take_little_more_than_their_bytes(server, client):
    log = log_of(settings_for(server.url))
    keep_hashes_small(client)
    entries = np.zeros(50_000, dtype=entry_dtype(16, 2))
    entries["id"], entries["version"] = np.arange(entries.size) * 7919, 1
    before = client.info("memory")["used_memory"]
    epoch = log.raise_epoch()
    commit = Commit(0, definition([WIDE.model_copy(update={"dim": 16})]), {}, [Block("wide", entries)])
    log.append(epoch, ROOT, CommitId(1, 1), encode(commit))
    materializer = Materializer(log, epoch, 0)
    materializer.fold()
    log.append(epoch, CommitId(1, 1), CommitId(2, 1), encode(Commit(0, commit.definition, {})))
    materializer.fold()
    assert log.client.xlen(log.keys.log) == 1
    payload = entries.nbytes
    assert 1.0 < (client.info("memory")["used_memory"] - before) / payload < 1.35
    assert 1.0 < describe(log)["tables"]["wide"]["bytes"] / payload < 1.35
