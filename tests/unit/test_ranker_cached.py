"""Ranking over a cached shard: what is not in memory is fetched off the event loop; scores are the trainer's."""

import threading
from typing import Any

import numpy as np
import pytest

from embedding_store.bootstrap import Snapshot
from embedding_store.cached_shard import CachedShard, Misses
from embedding_store.settings import AdmissionSettings
from embedding_store.shard import Shard
from services.settings import ConfigError, RankerSettings, load_settings
from tests.ranking import World, example


class Store:
    """Stands in for Redis: answers with the trainer's own rows."""

    def __init__(self, world: World, codec: Any = "float32") -> None:
        self.world, self.trainer = world, world.trainer
        self.calls: list[Misses] = []
        self.threads: set[str] = set()
        self.away = False
        definition = self.trainer.definition
        shard = CachedShard(
            definition.tables, definition.seed, AdmissionSettings(), b"", codec, 1 << 20, world.replica.tally
        )
        for t in range(len(shard.tables)):
            for block in self.trainer.learner.shard.blocks(np.array([t])):
                shard.apply(block)
        shard.clock_ms = self.trainer.learner.shard.clock_ms
        world.replica.fetch = self.fetch
        world.replica.restart(
            Snapshot(shard, self.trainer.id, definition.to_json(), parts=self.trainer.learner.parts())
        )
        shard.take_misses()

    def fetch(self, shard: Shard, misses: Misses) -> bool:
        assert not self.world.replica.lock.locked()
        self.calls.append(misses)
        self.threads.add(threading.current_thread().name)
        if self.away:
            return False
        source = self.trainer.learner.shard
        stored = {}
        for table, ids in misses.items():
            rows = source.index.lookup(table, ids)
            stored[shard.tables[table].name] = [
                source.blocks(np.array([row]))[0].rows()[0] if row >= 0 else None for row in rows.tolist()
            ]
        assert isinstance(shard, CachedShard)
        shard.settle_misses(misses, stored)
        return True


@pytest.fixture
def worlds() -> tuple[World, World]:
    """One that holds every row, and one that holds none yet; both have learned the same."""
    pair = World(), World()
    for world in pair:
        for round_ in range(20):
            world.learn(
                example("ann", ("a", 1), (7, 0), ("c", round_ % 2), genre=["x", "y"], seconds=30 * round_),
                example(3, ("a", 0), ("b", 1), genre="x"),
            )
    return pair


CANDIDATES = ["a", 7, {"id": "b", "genre": ["x", "new"]}, {"id": "c", "seconds": 12.5}, "nobody saw this"]


def scores(world: World) -> dict[str, float]:
    return {repr(item["id"]): item["score"] for item in world.rank({"id": "ann"}, CANDIDATES)["items"]}


def test_a_request_is_fetched_in_one_go_off_the_event_loop_and_scores_as_a_full_replica(worlds):
    full, cached = worlds
    store = Store(cached)
    assert scores(cached) == scores(full)
    assert len(store.calls) == 1
    assert all(name.startswith("fetcher") for name in store.threads)
    assert scores(cached) == scores(full)
    assert len(store.calls) == 1


@pytest.mark.parametrize(("codec", "error"), [("float16", 1e-4), ("int8", 5e-3)])
def test_scores_of_lossy_codecs_are_near_the_trainers(worlds, codec, error):
    full, cached = worlds
    Store(cached, codec)
    expected, found = scores(full), scores(cached)
    assert max(abs(found[key] - expected[key]) for key in expected) <= error


def test_a_store_that_is_away_is_asked_once_a_request_and_the_answer_comes_all_the_same(worlds):
    _, cached = worlds
    store = Store(cached)
    store.away = True
    assert len(set(scores(cached).values())) >= 1
    assert len(store.calls) == 1


def test_what_the_cache_did_is_told(worlds):
    full, cached = worlds
    Store(cached)
    scores(cached)
    text = cached.get("/metrics").text
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("dolmen_"))
    assert float(told["dolmen_replica_miss_total"]) > 0
    assert float(told["dolmen_replica_hit_total"]) > 0
    assert float(told['dolmen_replica_rows{table="item"}']) == 4
    assert float(told['dolmen_replica_bytes{table="item"}']) > 0
    assert float(told["dolmen_replica_memory_bytes"]) > 0
    assert "dolmen_replica_miss_total 0.0" in full.get("/metrics").text


def test_how_rows_are_held_is_configured(tmp_path):
    ranker = RankerSettings()
    assert (ranker.replica, ranker.codec, ranker.cache_memory) == ("full", "float32", 256 << 20)
    path = tmp_path / "dolmen.toml"
    path.write_text('[ranker]\nreplica = "cached"\ncodec = "float16"\ncache_memory = "1GiB"\n')
    ranker = load_settings(path).ranker
    assert (ranker.replica, ranker.codec, ranker.cache_memory) == ("cached", "float16", 1 << 30)
    for line in ('codec = "float8"', 'replica = "half"', 'cache_memory = "1KiB"'):
        path.write_text(f"[ranker]\n{line}\n")
        with pytest.raises(ConfigError, match=f"ranker.{line.split(' ')[0]}"):
            load_settings(path)
