"""Commits, folds, evictions and requests in any order: a cached replica scores as one that holds every row."""

from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings, target
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import embedding_store.cached_shard
import embedding_store.change
import embedding_store.layout
from embedding_store.bootstrap import bootstrap, catch_up
from embedding_store.cached_shard import CachedShard, Misses, Tally
from embedding_store.commit import decode
from embedding_store.errors import LogTrimmed
from embedding_store.log import CommitLog
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.rows import fetch_rows
from embedding_store.settings import TableSettings
from tests.shards import Writer, log_for, pooled, see

IDS = 9
CELL = st.one_of(st.none(), st.integers(0, IDS - 1), st.integers(0, IDS - 1))
EXAMPLES = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6)
FEW = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=2)
BUDGET_BYTES = 600
"""Of half a dozen rows."""


def make_cached(tally: Tally, codec: Any = "float32", budget: int = BUDGET_BYTES) -> Any:
    return lambda schema, layouts: CachedShard(
        schema.tables, schema.seed, schema.admission, layouts, codec, budget, tally
    )


class CacheMachine(RuleBasedStateMachine):
    """`full` holds every row, `cached` some; both go on only when they are told to."""

    url = ""
    codec: ClassVar[str] = "float32"
    tables: ClassVar[tuple[TableSettings, ...]] = (
        TableSettings(name="expiring", dim=4, expire_after="1s"),
        TableSettings(name="ftrl", dim=2, optimizer="ftrl", l1=0.6),
    )

    @initialize()
    def begin(self) -> None:
        self.log: CommitLog = log_for(self.url)
        self.writer = Writer(self.log, self.tables)
        self.materializer = Materializer(self.log, self.writer.epoch, 2000)
        self.time_ms = 1000
        self.tally = Tally()
        self.full: Any = None
        self.cached: Any = None
        self.sizes: dict[str, Any] = {}
        self.under_way: list[tuple[CachedShard, int, Misses, Any]] = []

        self.learns([(0, 0)], 0, 0, 0)
        self.bootstraps()

    @rule(examples=EXAMPLES, step_ms=st.integers(-200, 500), seed=st.integers(0, 1000), swept=st.integers(0, 9))
    def learns(self, examples: Any, step_ms: int, seed: int, swept: int) -> None:
        self.time_ms += step_ms
        gradients = np.random.default_rng(seed).normal(size=(len(examples), 2, 5))
        see(self.writer.shard, examples, gradients, times_ms=self.time_ms)
        self.writer.shard.sweep(swept)
        self.writer.commit()

    @rule()
    def folds(self) -> None:
        self.materializer.fold()

    @rule(bound=st.integers(1, 4), kept=st.sets(st.integers(0, 3), min_size=1))
    def changes_a_plan(self, bound: int, kept: set[int]) -> None:
        self.writer.shard.set_plan("expiring", TablePlan((bound,), (tuple(sorted(kept)), (0, 1, 2, 3))))

    def bootstraps(self) -> None:
        self.full = bootstrap(self.log, learning=False)
        self.cached = bootstrap(self.log, learning=False, make=make_cached(self.tally, self.codec))

    @rule(looks=st.booleans())
    def tails(self, looks: bool) -> None:
        try:
            catch_up(self.log, self.full)
            for entry in self.log.read(self.cached.id, count=1000):
                self.cached.apply(entry.id, decode(entry.data))
            assert self.cached.id == self.full.id
        except LogTrimmed:
            self.bootstraps()
        if looks:
            self.cached.shard.fold_to(self.log.state().mark.seq)

    def ask(self, misses: Misses) -> Any:
        return fetch_rows(self.log, {self.tables[t].name: ids for t, ids in misses.items()}, self.sizes)

    @rule(examples=FEW)
    def a_fetch_begins(self, examples: Any) -> None:
        shard = self.cached.shard
        shard.take_misses()
        pooled(shard, examples)
        misses = shard.take_misses()
        self.under_way.append((shard, shard.begin_fetch(), misses, self.ask(misses)))

    @precondition(lambda self: self.under_way)
    @rule(last=st.booleans())
    def a_fetch_ends(self, last: bool) -> None:
        shard, begun, misses, stored = self.under_way.pop(-1 if last else 0)
        shard.settle_misses(misses, stored)
        shard.end_fetch(begun)

    @precondition(lambda self: self.log.state().mark <= self.cached.id)
    @rule(examples=FEW)
    def scores(self, examples: Any) -> None:
        shard = self.cached.shard
        shard.take_misses()
        found = pooled(shard, examples)
        if misses := shard.take_misses():
            shard.settle_misses(misses, self.ask(misses))
            found = pooled(shard, examples)
            if shard.take_misses():
                return  # more than the budget holds
        expected = pooled(self.full.shard, examples)
        if self.codec == "float32":
            assert (found == expected).all()
        else:
            np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 100 + 1e-6)
        if self.log.state().head.seq == shard.folded and not self.under_way:
            assert shard.used_bytes <= BUDGET_BYTES

    def teardown(self) -> None:
        target(float(self.tally.evicted), label="evicted")


class CoarseMachine(CacheMachine):
    codec = "int8"


@pytest.mark.parametrize("machine", [CacheMachine, CoarseMachine])
def test_a_cached_replica_scores_as_one_that_holds_every_row(redis_url, monkeypatch, machine):
    monkeypatch.setattr(embedding_store.change, "CHUNK_ROWS", 6)
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 2)
    monkeypatch.setattr(embedding_store.cached_shard, "_AT_ONCE_BYTES", 0)
    monkeypatch.setattr(CacheMachine, "url", redis_url)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
