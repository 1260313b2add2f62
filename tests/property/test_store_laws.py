"""Learn, commit, fold, trim, crash and restore in any order: what Redis holds is the shard that never stopped."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import embedding_store.change
import embedding_store.fold
import embedding_store.layout
import embedding_store.rows
from embedding_store import sequences
from embedding_store.accumulators import row_width
from embedding_store.bootstrap import Snapshot, bootstrap, catch_up
from embedding_store.commit import ROOT, Commit, CommitId, encode
from embedding_store.dump import load_dump, read_dump
from embedding_store.errors import LogTrimmed, StoreUnavailable
from embedding_store.inspection import verify
from embedding_store.log import epoch_number
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.shard import Shard
from tests.remembering import ACCUMULATORS, SOME, remembered, see_and_remember
from tests.shards import SEED, TABLES, definition, dump_of, flaky_log, log_for, pooled, see, stored

IDS = 25
EVERY = [*range(IDS), None]
CELL = st.one_of(st.none(), st.integers(0, IDS - 1), st.lists(st.integers(0, IDS - 1), min_size=1, max_size=3))
EXAMPLES = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8)


class StoreMachine(RuleBasedStateMachine):
    """`reference` is never restored and never swept; `shard` is what the store's owner holds."""

    url = ""
    tables: ClassVar[tuple[TableSettings, ...]] = TABLES
    admission = AdmissionSettings(memory=1 << 16, window="2s")

    @initialize()
    def begin(self) -> None:
        self.log = log_for(self.url)
        self.definition = definition(self.schema(), admission=self.admission.model_dump(mode="json"))
        self.reference, self.shard = self.fresh(), self.fresh()
        self.epoch, self.head = self.log.raise_epoch(), ROOT
        self.materializer = Materializer(self.log, self.epoch, 2000)
        self.uncommitted: list[Any] = []
        self.time_ms, self.offset = 1000, 0
        self.last: Any = None
        self.committed = b""
        self.reader: Snapshot | None = None

    def schema(self) -> tuple[TableSettings, ...]:
        """Every table, those that no gradient teaches behind the others."""
        return self.tables

    def learn(self, shard: Shard, batch: Any) -> Any:
        return see(shard, **batch)

    def fresh(self) -> Shard:
        return Shard(self.schema(), SEED, True, self.admission)

    def every(self, shard: Shard) -> Any:
        return pooled(shard, [[key] * len(self.tables) for key in EVERY])

    def repeat(self, shard: Shard, step: Any) -> Any:
        """One batch, or one new plan."""
        return shard.set_plan(*step) if isinstance(step[0], str) else self.learn(shard, step[0])

    @rule(examples=EXAMPLES, step_ms=st.integers(-300, 700), seed=st.integers(0, 1000))
    def learns(self, examples: Any, step_ms: int, seed: int) -> None:
        self.time_ms += step_ms
        fields = len(self.tables)
        width = 1 + max(table.dim for table in self.tables)
        batch = {
            "examples": [[example[f % 2] for f in range(fields)] for example in examples],
            "gradients": np.random.default_rng(seed).normal(size=(len(examples), fields, width)),
            "times_ms": self.time_ms,
            "first_origin": 100 * self.offset,
        }
        assert (self.learn(self.shard, batch) == self.learn(self.reference, batch)).all()
        self.uncommitted.append((batch,))
        self.offset += 1

    @rule(rows=st.integers(1, 40))
    def sweeps(self, rows: int) -> None:
        self.shard.sweep(rows)

    @rule(answer=st.sampled_from(["comes", "is lost", "is lost with the command"]))
    def commits(self, answer: str) -> None:
        positions = {"t": {"offsets": {"0": self.offset}}}
        parts = {"offset": self.offset.to_bytes(4, "little"), **self.shard.parts()}
        blocks, gone = self.shard.take_changes()
        data = encode(Commit(self.shard.clock_ms, self.definition, positions, blocks, gone, parts))
        new = CommitId(self.head.seq + 1, epoch_number(self.epoch))
        self.last = (self.epoch, self.head, new, data)
        if answer != "comes":
            shaky = flaky_log(self.log, left=0, late=answer == "is lost", once=True)
            with contextlib.suppress(StoreUnavailable):
                shaky.append(*self.last)
        self.log.append(*self.last)
        self.head, self.uncommitted = new, []
        self.committed = dump_of(Snapshot(self.reference, new, self.definition, positions, parts))

    @precondition(lambda self: self.last is not None and self.last[0] == self.epoch)
    @rule()
    def repeats_the_append(self) -> None:
        self.log.append(*self.last)

    @rule(max_bytes=st.sampled_from([1, 1 << 30]))
    def folds(self, max_bytes: int) -> None:
        self.materializer.fold(max_bytes)

    @rule(left=st.integers(0, 30), late=st.booleans(), same=st.booleans())
    def breaks_off_a_fold(self, left: int, late: bool, same: bool) -> None:
        shaky = flaky_log(self.log)
        materializer = Materializer(shaky, self.epoch, 0)
        shaky.client.left, shaky.client.late = left, late
        with contextlib.suppress(StoreUnavailable):
            materializer.fold()
        shaky.client.left = None
        self.materializer = materializer if same else Materializer(self.log, self.epoch, 2000)

    @rule(ttl_ms=st.sampled_from([-1000, 60_000]))
    def holds_a_lease(self, ttl_ms: int) -> None:
        self.log.lease("reader", ttl_ms)

    @rule()
    def trims_all_that_is_folded(self) -> None:
        mark = self.log.state().mark
        if mark != ROOT:
            self.log.trim(self.epoch, mark)

    @rule()
    def crashes_and_restores(self) -> None:
        """Everything since the last commit is lost, and learned again."""
        self.epoch = self.log.raise_epoch()
        snapshot = bootstrap(self.log, learning=True)
        if snapshot is None:
            assert self.head == ROOT
            self.shard = self.fresh()
        else:
            assert snapshot.id == self.head
            assert dump_of(snapshot) == self.committed
            self.shard = snapshot.shard
        self.materializer = Materializer(self.log, self.epoch, 2000)
        for step in self.uncommitted:
            self.repeat(self.shard, step)
        assert (self.every(self.shard) == self.every(self.reference)).all()

    @precondition(lambda self: self.head != ROOT)
    @rule()
    def reads_on(self) -> None:
        """A reader catches up from wherever it is, or begins anew."""
        try:
            if self.reader is not None:
                catch_up(self.log, self.reader)
        except LogTrimmed:
            self.reader = None
        if self.reader is None:
            self.reader = bootstrap(self.log, learning=False)
        assert self.reader.id == self.head
        if not self.uncommitted:
            assert (self.every(self.reader.shard) == self.every(self.shard)).all()
            assert (self.every(self.reader.shard) == self.every(self.reference)).all()

    @precondition(lambda self: self.head != ROOT)
    @rule()
    def is_what_it_should_be(self) -> None:
        assert stored(self.log) == self.committed

    @precondition(lambda self: self.head != ROOT)
    @rule(folded=st.booleans())
    def loads_a_dump_elsewhere(self, folded: bool) -> None:
        """The copy has the same dump, and learns on as the shard itself does."""
        other = log_for(self.url)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "dump"
            path.write_bytes(self.committed)
            load_dump(other, read_dump(path))
        if folded:
            Materializer(other, other.raise_epoch(), 0).fold()
        snapshot = bootstrap(other, learning=True)
        assert snapshot is not None
        assert dump_of(snapshot) == self.committed
        for step in self.uncommitted:
            self.repeat(snapshot.shard, step)
        shown = [Snapshot(shard, ROOT, self.definition) for shard in (snapshot.shard, self.reference)]
        assert dump_of(shown[0]) == dump_of(shown[1])

    def teardown(self) -> None:
        if getattr(self, "head", ROOT) != ROOT:
            assert stored(self.log) == self.committed
            self.materializer.fold()
            assert stored(self.log) == self.committed
            assert verify(self.log).faults == []


@st.composite
def plans(draw: st.DrawFn, tables: tuple[TableSettings, ...]) -> tuple[str, TablePlan | None]:
    table = draw(st.sampled_from(tables))
    if draw(st.integers(0, 4)) == 0:
        return table.name, None
    bounds = tuple(sorted(draw(st.sets(st.integers(1, 6), max_size=2))))
    subsets = st.sets(st.integers(0, table.dim - 1), min_size=1).map(lambda some: tuple(sorted(some)))
    kept = tuple(draw(subsets) for _ in range(len(bounds) + 1))
    seed = draw(st.one_of(st.none(), st.integers(0, 9)))
    if seed is None:
        return table.name, TablePlan(bounds, kept)
    matrix = np.random.default_rng(seed).normal(size=(table.dim, table.dim)) / table.dim
    return table.name, TablePlan(bounds, kept, tuple(map(tuple, matrix.tolist())))


class AdaptiveMachine(StoreMachine):
    """The same with every optimizer, both ways of admission, expiry, and plans that change in mid-stream."""

    tables = (
        TableSettings(name="counted", dim=5, optimizer="adam", admit_after=3, expire_after="1s"),
        TableSettings(name="drawn", dim=2, optimizer="ftrl", l1=0.7, admit_after=2, admission="probability"),
        TableSettings(name="fine", dim=3, optimizer="adagrad_elementwise", expire_after="1s"),
        TableSettings(name="both", dim=4, admit_after=2, expire_after="2s"),
    )

    @rule(plan=plans(tables))
    def changes_a_plan(self, plan: tuple[str, TablePlan | None]) -> None:
        before = self.every(self.shard)
        for shard in (self.shard, self.reference):
            shard.set_plan(*plan)
        self.uncommitted.append(plan)
        others = [t for t, table in enumerate(self.tables) if table.name != plan[0]]
        assert (self.every(self.shard)[:, others] == before[:, others]).all()


class RememberingMachine(StoreMachine):
    """The same with Gaussian weights, statistics and a sequence, which learn from each batch besides."""

    tables = (
        TableSettings(name="sure", dim=3, linear="gaussian", tasks=2, prior_variance=0.5, expire_after="2s"),
        TableSettings(name="plain", dim=2, linear="ftrl", l1=0.2),
    )
    remembering = (
        TableSettings(
            name="by.sure", kind="statistics", accumulators=ACCUMULATORS, dim=row_width(ACCUMULATORS), admit_after=2
        ),
        TableSettings(name="by.plain", kind="statistics", accumulators=SOME, dim=row_width(SOME), expire_after="1s"),
        TableSettings(name="past", kind="sequence", length=3, dim=sequences.row_width(3), expire_after="2s"),
    )

    def schema(self) -> tuple[TableSettings, ...]:
        return (*self.tables, *self.remembering)

    def learn(self, shard: Shard, batch: Any) -> Any:
        return see_and_remember(shard, **batch)

    def every(self, shard: Shard) -> Any:
        return np.concatenate([super().every(shard).ravel(), remembered(shard, EVERY, self.time_ms)])


@pytest.mark.parametrize("machine", [StoreMachine, AdaptiveMachine, RememberingMachine])
def test_whatever_happens_the_store_holds_the_shard_that_never_stopped(redis_url, monkeypatch, machine):
    monkeypatch.setattr(embedding_store.change, "CHUNK_ROWS", 6)
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 2)
    monkeypatch.setattr(embedding_store.rows, "_HASHES", 3)
    monkeypatch.setattr(embedding_store.fold, "_SPLITS", 3)
    monkeypatch.setattr(StoreMachine, "url", redis_url)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
