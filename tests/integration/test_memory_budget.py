"""An owner that holds only so many bytes of rows, over a real store."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embedding_store.bootstrap import Schema, Snapshot
from embedding_store.bounded_shard import BoundedShard
from embedding_store.commit import ROOT, Commit
from embedding_store.errors import StoreUnavailable
from embedding_store.owner import Owner
from embedding_store.settings import AdmissionSettings, StoreSettings, least_budget
from embedding_store.shard import Shard
from services.local.servers import start_valkey
from tests.shards import SEED, TABLES, definition, dump_of, log_of, pooled, see, settings_for, stored

SCHEMA = Schema(TABLES, SEED)
BUDGET = least_budget(TABLES, AdmissionSettings())
IDS = 12_000


@pytest.fixture
def settings(redis_url: str) -> StoreSettings:
    return settings_for(redis_url, fold_interval="20ms")


class Pair:
    """An owner with a budget beside a shard that holds everything."""

    def __init__(self, settings: StoreSettings, **options: Any) -> None:
        self.owner = Owner(settings, memory_budget=BUDGET, **options)
        snapshot = self.owner.open()
        self.shard = snapshot.shard if snapshot else self.owner.fresh(SCHEMA)
        self.plain = Shard(TABLES, SEED)
        self.round = 0

    def learn(self, ids: Any) -> None:
        examples = [[int(key), int(key)] for key in ids]
        for shard in (self.shard, self.plain):
            gradients = np.random.default_rng(self.round).normal(size=(len(examples), 2, 7))
            see(shard, examples, gradients, 1000 + 10 * self.round)
        self.round += 1

    def commit(self) -> None:
        blocks, gone = self.shard.take_changes()
        parts = self.shard.parts()
        self.owner.commit(Commit(self.shard.clock_ms, definition(), {}, blocks, gone, parts))

    def fill(self) -> None:
        """Learns every id once, a few hundred at a time, within the budget."""
        for first in range(0, IDS, 500):
            self.learn(range(first, first + 500))
            self.commit()
            if not self.shard.keep():
                self.owner.fold()
                assert self.shard.keep()

    def wanted(self) -> bytes:
        return dump_of(Snapshot(self.plain, ROOT, definition(), {}, dict(self.plain.parts())))


@pytest.fixture
def pair(settings: StoreSettings) -> Iterator[Pair]:
    pair = Pair(settings)
    yield pair
    pair.owner.close()


def every(shard: Shard) -> Any:
    return pooled(shard, [[key, key] for key in range(IDS)])


def test_an_owner_stores_what_one_that_holds_everything_does(pair, settings):
    pair.fill()
    assert 0 < pair.shard.away[0] < IDS
    pair.learn(range(0, IDS, 7))
    pair.commit()
    assert stored(log_of(settings)) == pair.wanted()
    assert pair.shard.returned[0] > 0


def test_a_restart_loads_no_more_than_the_budget_and_keeps_what_was_seen_last(pair, settings):
    pair.fill()
    pair.owner.close()
    again = Pair(settings)
    assert isinstance(again.shard, BoundedShard)
    assert again.shard.bytes_in_use <= BUDGET
    assert again.shard.nbytes <= BUDGET + 4096 * 140  # as many rows as one round trip brings
    assert again.shard.counts.tolist() == pair.plain.counts.tolist()
    assert again.shard.away[0] > 1000
    returned = again.shard.returned[0]
    pooled(again.shard, [[key, key] for key in range(IDS - 1000, IDS)])
    assert again.shard.returned[0] == returned
    assert (every(again.shard) == every(pair.plain)).all()
    again.plain, again.round = pair.plain, pair.round
    again.learn(range(0, IDS, 5))
    again.commit()
    assert stored(log_of(settings)) == again.wanted()
    again.owner.close()


def test_a_restart_folds_first_so_that_what_is_gone_stays_gone(redis_url):
    settings = settings_for(redis_url, fold_interval="1h")
    pair = Pair(settings)
    pair.learn(range(100))
    pair.commit()
    pair.owner.fold()
    pair.round = 1000
    pair.learn([200])  # by its time all others of the wide table have expired
    pair.shard.sweep(1000)
    pair.commit()
    assert pair.owner.unfolded_bytes > 0
    pair.owner.close()
    again = Pair(settings)
    assert again.owner.unfolded_bytes == 0
    assert again.shard.counts.tolist() == [1, 101]
    assert (every(again.shard) == every(pair.plain)).all()
    again.owner.close()


def test_fold_returns_once_every_commit_is_in_the_rows(redis_url):
    settings = settings_for(redis_url, fold_interval="1h")
    pair, log = Pair(settings), log_of(settings)
    pair.learn(range(10))
    pair.commit()
    assert log.state().mark == ROOT
    pair.owner.fold()
    assert log.state().mark == pair.owner.head
    pair.owner.fold()
    pair.owner.close()


def test_rows_come_back_once_the_store_answers_again(tmp_path):
    with start_valkey(tmp_path) as server:
        attempts = []

        def waiting(error: StoreUnavailable) -> None:
            attempts.append(error)
            if len(attempts) == 2:
                server.restart()

        pair = Pair(settings_for(server.url, timeout="1s", fold_interval="20ms"), waiting=waiting)
        pair.learn(range(50))
        pair.commit()
        pair.owner.fold()
        assert isinstance(pair.shard, BoundedShard)
        pair.shard.depart(pair.shard.evictable(pair.owner.head.seq))
        server.stop()
        assert pair.shard.away.tolist() == [50, 50]
        assert (every(pair.shard) == every(pair.plain)).all()
        assert len(attempts) >= 2
        pair.owner.close()


def test_whoever_waits_for_rows_may_give_up(tmp_path):
    class Enough(Exception):
        pass

    def waiting(error: StoreUnavailable) -> None:
        raise Enough

    with start_valkey(tmp_path) as server:
        pair = Pair(settings_for(server.url, timeout="1s", fold_interval="20ms"), waiting=waiting)
        pair.learn(range(50))
        pair.commit()
        pair.owner.fold()
        assert isinstance(pair.shard, BoundedShard)
        pair.shard.depart(pair.shard.evictable(pair.owner.head.seq))
        server.stop()
        with pytest.raises(Enough):
            every(pair.shard)
        pair.owner.close()
