"""The cached replica: what it holds, what it asks for, and that it never goes back."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from embedding_store.bootstrap import Snapshot, bootstrap
from embedding_store.cached_shard import CachedShard, Tally
from embedding_store.commit import decode
from embedding_store.log import CommitLog
from embedding_store.materializer import Materializer
from embedding_store.replica import Holding, Replica
from embedding_store.rows import fetch_rows
from embedding_store.settings import StoreSettings, TableSettings
from services.local.servers import start_valkey
from tests.integration.test_replica import Listener
from tests.shards import TABLES, Writer, ids_of, log_of, pooled, see, settings_for

LIMIT_S = 30.0
EVERY = [[key, key] for key in range(40)] + [[None, None]]
ROOMY = 1 << 20


class World:
    """A writer, and a cached shard that goes on when it is told to."""

    def __init__(self, url: str, budget: int = ROOMY) -> None:
        self.log = log_of(settings_for(url))
        self.writer = Writer(self.log)
        self.tally = Tally()
        self.budget = budget
        self.sizes: dict = {}
        self.snapshot: Snapshot | None = None

    @property
    def shard(self) -> CachedShard:
        shard = self.snapshot.shard
        assert isinstance(shard, CachedShard)
        return shard

    def learn(self, *ids: int, step: float = 1.0, time_ms: int = 1000) -> None:
        see(self.writer.shard, [[key, key] for key in ids], step, times_ms=time_ms)
        self.writer.commit()

    def fold(self) -> None:
        Materializer(self.log, self.writer.epoch, 0).fold()

    def start(self) -> None:
        self.snapshot = bootstrap(
            self.log,
            learning=False,
            make=lambda schema, layouts: CachedShard(
                schema.tables, schema.seed, schema.admission, layouts, "float32", self.budget, self.tally
            ),
        )
        self.look()

    def tail(self) -> None:
        for entry in self.log.read(self.snapshot.id, count=1000):
            self.snapshot.apply(entry.id, decode(entry.data))

    def look(self) -> None:
        self.shard.fold_to(self.log.state().mark.seq)

    def ask(self, examples: list) -> tuple:
        self.shard.take_misses()
        pooled(self.shard, examples)
        misses = self.shard.take_misses()
        return misses, self.answer(misses)

    def answer(self, misses: dict) -> dict:
        return fetch_rows(self.log, {self.shard.tables[t].name: ids for t, ids in misses.items()}, self.sizes)

    def scores_right(self, examples: list) -> None:
        misses, stored = self.ask(examples)
        self.shard.settle_misses(misses, stored)
        assert (pooled(self.shard, examples) == pooled(self.writer.shard, examples)).all()


@pytest.fixture
def world(redis_url: str) -> World:
    return World(redis_url)


def test_a_start_reads_cold_rows_and_the_tail_of_the_log_only(world):
    world.learn(*range(20))
    world.fold()
    world.learn(20, 21)
    world.start()
    assert world.shard.counts.tolist() == [2, 2]
    assert (pooled(world.shard, EVERY[20:22]) == pooled(world.writer.shard, EVERY[20:22])).all()
    assert (pooled(world.shard, EVERY[40:]) == pooled(world.writer.shard, EVERY[40:])).all()


def test_misses_are_found_once_and_absences_are_remembered(world):
    world.learn(*range(20))
    world.fold()
    world.start()
    world.scores_right(EVERY)
    assert (world.tally.misses, world.tally.hits) == (80, 80)
    assert world.ask(EVERY)[0] == {}
    assert world.shard.counts.tolist() == [20, 20]


def test_a_row_in_the_log_cancels_an_absence(world):
    world.learn(1)
    world.fold()
    world.start()
    world.scores_right([[7, 7]])
    world.learn(7)
    world.tail()
    assert world.ask([[7, 7]])[0] == {}
    world.scores_right([[7, 7]])


def test_a_row_that_left_by_the_log_does_not_come_back_before_the_fold(world):
    world.learn(1, time_ms=1000)
    world.fold()
    world.start()
    world.learn(2, time_ms=9000)
    world.writer.shard.sweep(100)
    world.writer.commit()
    world.tail()
    assert 1 not in ids_of(world.writer.shard, 0)
    world.scores_right([[1, 1]])
    world.shard.clock_ms = 1000  # were the row here, it would not be expired
    assert (pooled(world.shard, [[1, 1]])[:, 0] == pooled(world.shard, [[None, None]])[:, 0]).all()


def test_an_answer_that_comes_late_does_not_undo_what_the_log_brought_meanwhile(redis_url):
    world = World(redis_url, budget=1 << 10)
    world.learn(1)
    world.fold()
    world.start()
    misses, stored = world.ask([[5, 5]])
    begun = world.shard.begin_fetch()
    world.learn(5)
    world.tail()
    world.fold()
    world.look()
    for key in range(10, 30):  # would push row 5 out, were nothing under way
        world.shard.settle_misses(*world.ask([[key, key]]))
    world.shard.settle_misses(misses, stored)
    world.shard.end_fetch(begun)
    assert (pooled(world.shard, [[5, 5]]) == pooled(world.writer.shard, [[5, 5]])).all()
    assert world.tally.evicted > 0


def test_an_older_row_never_replaces_a_newer_one(world):
    world.learn(3)
    world.fold()
    world.start()
    misses, stored = world.ask([[3, 3]])
    world.learn(3)
    world.tail()
    world.shard.settle_misses(misses, stored)
    assert (pooled(world.shard, [[3, 3]]) == pooled(world.writer.shard, [[3, 3]])).all()


def test_rows_of_a_dropped_table_count_no_more_although_they_are_still_stored(world):
    world.learn(*range(9))
    world.fold()
    world.start()
    world.scores_right([[1, 1]])
    world.writer.shard.remove(1, ids_of(world.writer.shard, 1))
    world.writer.shard.take_changes()
    world.writer.commit(dropped=("narrow",))
    world.tail()
    world.shard.settle_misses(*world.ask(EVERY))
    assert not pooled(world.shard, EVERY)[:, 1].any()
    assert world.shard.counts[1] == 0


def test_memory_stays_within_the_budget_and_used_rows_stay_in_it(redis_url):
    world = World(redis_url, budget=1 << 18)
    for first in range(0, 20_000, 2000):
        see(world.writer.shard, [[key, key] for key in range(first, first + 2000)], 1.0)
        world.writer.commit()
        world.fold()
    world.start()
    hot = [[key, key] for key in range(100)]
    rng = np.random.default_rng(0)
    for _ in range(200):
        world.shard.settle_misses(*world.ask([[int(key), int(key)] for key in rng.integers(100, 20_000, 50)]))
        world.shard.settle_misses(*world.ask(hot))
        assert world.shard.used_bytes <= 1 << 18
    assert world.shard.nbytes <= (1 << 18) + (1 << 17)  # the index grows by segments of 64 KiB
    assert world.ask(hot)[0] == {}
    assert world.tally.evicted > 10_000


def wait_for(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {LIMIT_S} s"
        time.sleep(0.01)


def started(settings: StoreSettings, listener: Listener, clock=time.monotonic) -> Replica:
    replica = Replica(settings, listener, clock, Holding("float32", ROOMY))
    replica.start()
    wait_for(lambda: replica.snapshot is not None, "a start")
    return replica


def read(replica: Replica, examples: list) -> np.ndarray:
    shard = replica.snapshot.shard
    for _ in range(3):
        with replica.lock:
            found, misses = pooled(shard, examples), shard.take_misses()
        if not misses or not replica.fetch(shard, misses):
            break
    return found


def test_a_replica_that_caches_follows_and_fetches(redis_url):
    settings = settings_for(redis_url)
    writer, listener = Writer(log_of(settings)), Listener()
    see(writer.shard, EVERY[:30], 1.0)
    writer.commit()
    Materializer(writer.log, writer.epoch, 0).fold()
    replica = started(settings, listener)
    try:
        assert (read(replica, EVERY) == pooled(writer.shard, EVERY)).all()
        assert replica.tally.fetched == 80
        see(writer.shard, EVERY[25:35], 1.0)
        writer.commit()
        wait_for(lambda: replica.snapshot.id == writer.head, "following")
        assert (read(replica, EVERY) == pooled(writer.shard, EVERY)).all()
        assert replica.tally.fetched == 80
        Materializer(writer.log, writer.epoch, 0).fold()
        wait_for(lambda: replica.snapshot.shard.folded == writer.head.seq, "hearing of the fold")
        writer.log.client.hset(writer.log.keys.state, "mark", "1-1")
        wait_for(lambda: len(listener.starts) == 2, "a new start, since the stored rows went back")
    finally:
        replica.stop()


def test_while_the_store_is_away_unknown_ids_score_as_unknown_and_are_counted(tmp_path):
    with start_valkey(tmp_path) as server:
        settings = settings_for(server.url, timeout="1s")
        writer = Writer(log_of(settings))
        see(writer.shard, EVERY[:30], 1.0)
        writer.commit()
        Materializer(writer.log, writer.epoch, 0).fold()
        now = [0.0]
        replica = started(settings, Listener(), lambda: now[0])
        try:
            server.stop()
            cold = pooled(writer.shard, [[None, None]])
            assert (read(replica, [[3, 3]]) == cold).all()
            assert (replica.tally.fetched, replica.tally.failed) == (2, 2)
            server.restart()
            assert (read(replica, [[3, 3]]) == cold).all()  # it rests
            now[0] += 5.0
            assert (read(replica, [[3, 3]]) == pooled(writer.shard, [[3, 3]])).all()
        finally:
            replica.stop()


def test_all_misses_of_a_request_take_one_command(redis_url, monkeypatch):
    settings = settings_for(redis_url)
    writer = Writer(log_of(settings), (*TABLES, TableSettings(name="third", dim=1)))
    see(writer.shard, [[key] * 3 for key in range(30)], 1.0)
    writer.commit()
    Materializer(writer.log, writer.epoch, 0).fold()
    replica = started(settings, Listener())
    try:
        read(replica, [[1, 1, 1]])  # the sizes of the tables are known from now on
        asked = []
        fetch = CommitLog.fetch
        monkeypatch.setattr(CommitLog, "fetch", lambda log, *words: asked.append(words) or fetch(log, *words))
        read(replica, [[key] * 3 for key in range(2, 40)])
        assert len(asked) == 1
        assert replica.tally.fetched == 3 + 3 * 38
    finally:
        replica.stop()
