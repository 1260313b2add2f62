"""A table that is dropped and made anew with another width, another optimizer and old plans, folded or not."""

import numpy as np
import pytest

import embedding_store.bootstrap
from embedding_store.bootstrap import Schema, bootstrap
from embedding_store.commit import CommitId
from embedding_store.dump import load_dump, read_dump
from embedding_store.errors import BadBytes
from embedding_store.inspection import verify
from embedding_store.log import CommitLog, epoch_number
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.proposal import Proposal, propose, read_proposals
from embedding_store.removal import drop_table
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.shard import Shard
from tests.shards import NARROW, SEED, Writer, definition, hashes_of, log_for, pooled, see, stored

OLD = TableSettings(name="again", dim=6, expire_after="1s")
ANEW = [
    OLD.model_copy(update={"dim": 3, "optimizer": "adam"}),
    OLD.model_copy(update={"dim": 2, "optimizer": "ftrl"}),  # as many numbers a row as before
    OLD.model_copy(update={"dim": 9}),
    OLD.model_copy(update={"optimizer": "adagrad_elementwise"}),
    OLD,
]


@pytest.fixture
def log(redis_url: str) -> CommitLog:
    return log_for(redis_url)


def learn(writer: Writer, round_: int) -> None:
    rng = np.random.default_rng(round_)
    width = 1 + max(table.dim for table in writer.shard.tables)
    see(writer.shard, rng.integers(0, 40, (32, 2)).tolist(), rng.normal(size=(32, 2, width)), 1000 + 250 * round_)
    writer.shard.sweep(11)


def written(log: CommitLog, folded: int) -> Writer:
    """Six commits of the old kind, the last ones with a plan."""
    writer = Writer(log, (OLD, NARROW))
    for round_ in range(6):
        learn(writer, round_)
        if round_ == 3:
            writer.shard.set_plan("again", TablePlan((2,), ((4, 5), (0, 1, 2, 3, 4, 5))))
        writer.commit()
        if round_ + 1 == folded:
            Materializer(log, writer.epoch, 1 << 30).fold()
    return writer


@pytest.mark.parametrize("anew", ANEW, ids=lambda table: f"{table.optimizer}-{table.dim}")
@pytest.mark.parametrize("folded", [0, 3, 6])
@pytest.mark.parametrize("fold_drop", [False, True])
def test_nothing_of_the_old_table_is_in_the_new_one(log: CommitLog, anew: TableSettings, folded: int, fold_drop: bool):
    writer = written(log, folded)
    propose(log, Proposal("again", TablePlan((), ((5,),))))
    narrow = pooled(writer.shard, [[None, key] for key in range(40)])[:, 1, : 1 + NARROW.dim]
    writer.head = drop_table(log, "again")
    writer.epoch = log.raise_epoch()
    if fold_drop:
        Materializer(log, writer.epoch, 0).fold()
    tables = (anew, NARROW)
    assert read_proposals(log, {table.name: table.dim for table in tables}) == []
    snapshot = bootstrap(log, learning=True, define=lambda _: Schema(tables, SEED))
    assert snapshot is not None
    assert snapshot.shard.counts[0] == 0
    assert snapshot.shard.layouts.plans == {}
    fresh = Shard([anew], SEED)
    every = [[key] for key in range(40)] + [[None]]
    first = pooled(fresh, every)[:, 0]
    assert (pooled(snapshot.shard, [[*cell, None] for cell in every])[:, 0, : 1 + anew.dim] == first).all()
    assert (pooled(snapshot.shard, [[None, key] for key in range(40)])[:, 1, : 1 + NARROW.dim] == narrow).all()

    writer.shard, writer.definition, writer.parts = snapshot.shard, definition(tables), dict(snapshot.parts)
    for round_ in range(6, 9):
        learn(writer, round_)
        writer.commit()
        assert stored(log) == writer.committed
        assert verify(log).faults == []
        reader = bootstrap(log, learning=False)
        assert reader is not None
        both = [[key, key] for key in range(40)] + [[None, None]]
        assert (pooled(reader.shard, both) == pooled(writer.shard, both)).all()
    Materializer(log, writer.epoch, 0).fold()
    assert stored(log) == writer.committed
    assert verify(log).faults == []


def test_what_the_new_table_holds_does_not_depend_on_when_the_drop_was_folded(redis_url: str):
    for anew in ANEW:
        dumps = []
        for fold_drop in (False, True):
            log = log_for(redis_url)
            writer = written(log, 6)
            writer.head = drop_table(log, "again")
            writer.epoch = log.raise_epoch()
            if fold_drop:
                Materializer(log, writer.epoch, 0).fold()
            snapshot = bootstrap(log, learning=True, define=lambda _, anew=anew: Schema((anew, NARROW), SEED))
            assert snapshot is not None
            writer.shard, writer.definition = snapshot.shard, definition((anew, NARROW))
            learn(writer, 6)
            writer.commit()
            dumps.append(stored(log))
        assert dumps[0] == dumps[1]


def test_damaged_rows_of_a_table_that_was_not_dropped_are_still_refused(log: CommitLog):
    writer = written(log, 6)
    drop_table(log, "again")
    key = hashes_of(log, "narrow")[0]
    field = next(iter(log.client.hkeys(key)))
    log.client.hset(key, field, log.client.hget(key, field)[:-1])
    with pytest.raises(BadBytes, match="table 'narrow'"):
        bootstrap(log, learning=True)
    assert writer.head.seq == 6


def test_layouts_that_came_during_a_bootstrap_stay_known_through_older_entries(log: CommitLog, monkeypatch):
    """Rows of a late layout are read before the entries are that know of fewer layouts."""
    writer = written(log, 3)
    scan = embedding_store.bootstrap.scan_rows
    plans = [TablePlan((), (tuple(range(n)),)) for n in (1, 2, 3, 4)]

    def scanning(log: CommitLog, table: str):
        while plans:
            writer.shard.set_plan("again", plans.pop())
            learn(writer, 20 - len(plans))
            writer.commit()
            Materializer(log, writer.epoch, 1 << 30).fold()
        yield from scan(log, table)

    monkeypatch.setattr("embedding_store.bootstrap.scan_rows", scanning)
    snapshot = bootstrap(log, learning=True)
    monkeypatch.undo()
    assert snapshot is not None
    assert snapshot.shard.layouts.to_json() == writer.shard.layouts.to_json()
    assert stored(log) == writer.committed


@pytest.mark.parametrize("sizes", [(1 << 16, 1 << 18), (1 << 18, 1 << 16)], ids=["larger", "smaller"])
def test_a_filter_of_another_memory_begins_empty_and_no_old_page_comes_back(log: CommitLog, sizes: tuple[int, int]):
    tables = (OLD.model_copy(update={"admit_after": 3, "expire_after": None}),)
    writer = Writer(log, tables)
    for round_, memory in enumerate(sizes):
        admission = AdmissionSettings(memory=memory)
        snapshot = bootstrap(log, learning=True, define=lambda _, admission=admission: Schema(tables, SEED, admission))
        writer.shard = snapshot.shard if snapshot else Shard(tables, SEED, True, admission)
        writer.definition = definition(tables, admission=admission.model_dump(mode="json"))
        if round_:
            assert not writer.shard.filter.all_pages().entries.size
        see(writer.shard, [[key + 5000 * round_] for key in range(2000 if not round_ else 3)])
        writer.commit()
        assert stored(log) == writer.committed
        Materializer(log, writer.epoch, 0).fold()
        assert stored(log) == writer.committed
        assert verify(log).faults == []


def test_a_dump_of_a_table_made_anew_loads(log: CommitLog, redis_url: str, tmp_path):
    writer = written(log, 3)
    writer.head = drop_table(log, "again")
    writer.epoch = log.raise_epoch()
    snapshot = bootstrap(log, learning=True, define=lambda _: Schema((ANEW[0], NARROW), SEED))
    assert snapshot is not None
    writer.shard, writer.definition = snapshot.shard, definition((ANEW[0], NARROW))
    writer.parts = dict(snapshot.parts)
    learn(writer, 6)
    writer.commit()
    (tmp_path / "dump").write_bytes(writer.committed)
    blocks = read_dump(tmp_path / "dump").blocks()
    assert [(block.table, block.entries["values"].shape[1]) for block in blocks] == [("again", 4), ("narrow", 3)]
    other = log_for(redis_url)
    assert load_dump(other, read_dump(tmp_path / "dump")) == CommitId(1, epoch_number(other.state().epoch or ""))
    assert stored(other) == writer.committed
