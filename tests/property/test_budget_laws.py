"""A shard whose rows leave and come back at random moments is, to the bit, the shard that holds them all."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

import embedding_store.change
import embedding_store.fold
import embedding_store.layout
import embedding_store.rows
import embedding_store.stored_rows
from embedding_store.accumulators import CLOCK_WIDTH
from embedding_store.bootstrap import Snapshot, bootstrap
from embedding_store.bounded_shard import BoundedShard
from embedding_store.commit import ROOT
from embedding_store.inspection import verify
from embedding_store.lookup import single
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.rows import read_sizes
from embedding_store.sequences import Sequences, row_width
from embedding_store.settings import Accumulator, TableSettings
from embedding_store.shard import Shard
from embedding_store.statistics import Statistics
from embedding_store.stored_rows import StoredRows
from tests.property.test_store_laws import EXAMPLES, AdaptiveMachine, StoreMachine, plans
from tests.shards import SEED, Writer, dump_of, log_for, stored

BUDGET = 8 << 20
LEAVING = st.one_of(st.just(1.0), st.floats(0.0, 1.0))


def some_of(shard: BoundedShard, folded: int, share: float, seed: int) -> Any:
    """A random part of the rows that may leave."""
    rows = shard.evictable(folded)
    return rows[np.random.default_rng(seed).random(rows.size) < share]


class BoundedMachine(AdaptiveMachine):
    """`shard` holds some of the rows; `reference` holds them all."""

    shard: BoundedShard

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.shard = self.bounded(b"")

    def bounded(self, layouts: bytes) -> BoundedShard:
        rows = StoredRows(self.log, self.folded, lambda call: call())
        return BoundedShard(rows, BUDGET, self.tables, SEED, self.admission, layouts)

    def folded(self) -> int:
        return self.materializer.mark.seq

    def every(self, shard: Shard) -> Any:
        """Does not bring all rows back whenever anything is compared."""
        return super().every(self.reference if shard is self.shard else shard)

    @rule(share=LEAVING, seed=st.integers(0, 99))
    def rows_leave(self, share: float, seed: int) -> None:
        before = self.shard.counts.tolist()
        self.shard.depart(some_of(self.shard, self.folded(), share, seed))
        assert self.shard.counts.tolist() == before

    @rule(share=LEAVING, seed=st.integers(0, 99))
    def all_is_folded_and_rows_leave(self, share: float, seed: int) -> None:
        self.commits("comes")
        while self.materializer.fold():
            pass
        self.rows_leave(share, seed)

    @rule(
        examples=EXAMPLES,
        seed=st.integers(0, 1000),
        step_ms=st.sampled_from([0, 200, 600, 1500]),
        share=LEAVING,
        happens=st.tuples(*[st.booleans()] * 4),
        walks=st.sampled_from([0, 2, 12, 60]),
        plan=st.one_of(st.none(), st.none(), plans(AdaptiveMachine.tables)),
    )
    def lives_on(
        self, examples: Any, seed: int, step_ms: int, share: float, happens: Any, walks: int, plan: Any
    ) -> None:
        commits, folds, sweeps, commits_more = happens
        self.learns(examples, step_ms, seed)
        if commits:
            self.commits("comes")
        while folds and self.materializer.fold():
            pass
        self.rows_leave(share, seed)
        if plan:
            self.changes_a_plan(plan)
        if sweeps:
            self.sweeps(1000)
        if commits_more:
            self.commits("comes")
        self.walks(walks)

    @rule(steps=st.sampled_from([1, 12]))
    def walks(self, steps: int) -> None:
        for _ in range(steps):
            self.shard.walk()

    @rule()
    def scores_every_id(self) -> None:
        assert (super().every(self.shard) == super().every(self.reference)).all()

    @rule(plan=plans(AdaptiveMachine.tables))
    def changes_a_plan(self, plan: tuple[str, TablePlan | None]) -> None:
        for shard in (self.shard, self.reference):
            shard.set_plan(*plan)
        self.uncommitted.append(plan)

    @rule(share=LEAVING, seed=st.integers(0, 99))
    def crashes_and_restores(self, share: float = 1.0, seed: int = 0) -> None:
        self.epoch = self.log.raise_epoch()
        self.materializer = Materializer(self.log, self.epoch, 2000)
        while self.materializer.fold():
            pass
        snapshot = bootstrap(self.log, learning=True, make=lambda _, layouts: self.bounded(layouts))
        if snapshot is None:
            self.shard = self.bounded(b"")
        else:
            assert dump_of(snapshot) == self.committed
            snapshot = bootstrap(self.log, learning=True, make=lambda _, layouts: self.bounded(layouts))
            assert snapshot is not None
            self.shard = snapshot.shard  # type: ignore[assignment]
            self.rows_leave(share, seed)
        for step in self.uncommitted:
            self.repeat(self.shard, step)

    @precondition(lambda self: self.head != ROOT)
    @rule()
    def whatever_is_expired_or_stale_is_found(self) -> None:
        """After a sweep and two rounds of the walk the rows counted are those that live; so are those stored."""
        for _ in range(2):  # the first may only go on from where the last one ended
            self.shard.sweep(1 << 20)
        self.shard.carry_out()
        for _ in range(150):
            self.shard.walk()
        self.commits("comes")
        while self.materializer.fold():
            pass
        lives = [self.reference.live_rows(t).size for t in range(len(self.tables))]
        assert self.shard.counts.tolist() == lives
        sizes = read_sizes(self.log)
        assert [max(0, sizes[t.name].rows - 1) if t.name in sizes else 0 for t in self.tables] == lives

    def teardown(self) -> None:
        super().teardown()
        if getattr(self, "head", ROOT) != ROOT:
            self.whatever_is_expired_or_stale_is_found()
            assert stored(self.log) == self.committed


def test_rows_that_leave_and_come_back_change_nothing(redis_url, monkeypatch):
    monkeypatch.setattr(embedding_store.change, "CHUNK_ROWS", 6)
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 2)
    monkeypatch.setattr(embedding_store.rows, "_HASHES", 3)
    monkeypatch.setattr(embedding_store.stored_rows, "_HASHES", 5)
    monkeypatch.setattr(embedding_store.stored_rows, "_MOST", 7)
    monkeypatch.setattr(embedding_store.fold, "_SPLITS", 3)
    monkeypatch.setattr(StoreMachine, "url", redis_url)
    run_state_machine_as_test(
        BoundedMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


ACCUMULATORS = (
    Accumulator(kind="sum", of="label", half_life_ms=2000),
    Accumulator(kind="window_count", of="label", window_ms=4000),
    Accumulator(kind="last", of="label", length=3),
    Accumulator(kind="time", of="label", length=2),
)
COUNTED = TableSettings(
    name="counted",
    kind="statistics",
    dim=CLOCK_WIDTH + sum(a.width for a in ACCUMULATORS),
    accumulators=ACCUMULATORS,
    expire_after="3s",
    admit_after=2,
)
WATCHED = TableSettings(name="watched", kind="sequence", length=3, dim=row_width(3), expire_after="3s")
SEEN = st.tuples(st.integers(0, 5), st.integers(-300, 900), st.floats(0.0, 1.0), st.integers(0, 1 << 60))


class Kept:
    """One shard with a table of statistics and one of sequences."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.statistics = Statistics(shard, [0], ["label"])
        self.sequences = Sequences(shard, 1)

    def see(self, number: int, seen: Any) -> list[Any]:
        """What is known of some ids; then they are seen."""
        ids = np.array([key for key, *_ in seen])
        times = np.array([time for _, time, *_ in seen])
        missing = ids == 5
        origins = np.arange(ids.size, dtype=np.uint64) + np.uint64(100 * number)
        found, numbers = self.statistics.read(ids[:, None], missing[:, None], times)
        known = [numbers, *self.sequences.read(ids, missing, times)]
        outcomes = np.array([outcome for _, _, outcome, _ in seen])
        self.statistics.update(ids[:, None], missing[:, None], found, times, origins, outcomes[:, None])
        items = np.array([item for *_, item in seen])
        self.sequences.push(ids, missing, times, origins, items, outcomes.astype(np.float32))
        self.shard.pass_on(times)
        return known


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.tuples(st.lists(SEEN, min_size=1, max_size=4), LEAVING, st.booleans()), max_size=12))
def test_statistics_and_sequences_are_the_same_wherever_their_rows_are(redis_url, batches):
    log, tables = log_for(redis_url), (COUNTED, WATCHED)
    writer = Writer(log, tables)
    materializer = Materializer(log, writer.epoch, 0)
    rows = StoredRows(log, lambda: materializer.mark.seq, lambda call: call())
    writer.shard = shard = BoundedShard(rows, BUDGET, tables, SEED)
    bounded, plain = Kept(shard), Kept(Shard(tables, SEED))
    now_ms = 10_000
    for number, (some, share, commits) in enumerate(batches):
        seen = [(key, now_ms + step, outcome, item) for key, step, outcome, item in some]
        now_ms = max(now_ms, *(time for _, time, *_ in seen))
        if number % 2:
            keys, none = np.array([key for key, *_ in seen]), np.zeros(len(seen), dtype=np.bool_)
            shard.warm(lambda: [(single(keys, none), some.fields) for some in (bounded.sequences, bounded.statistics)])  # noqa: B023 - called at once
        for mine, wanted in zip(bounded.see(number, seen), plain.see(number, seen), strict=True):
            np.testing.assert_array_equal(mine, wanted)
        if commits:
            writer.commit()
            while materializer.fold():
                pass
            shard.sweep(100)
        shard.depart(some_of(shard, materializer.mark.seq, share, number))
    writer.commit()
    snapshot = Snapshot(plain.shard, ROOT, writer.definition, writer.positions(), dict(writer.parts))
    assert stored(log) == dump_of(snapshot)
    assert verify(log).faults == []
