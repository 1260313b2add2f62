"""Reading a whole shard from Redis, while others write, fold and trim."""

import numpy as np
import orjson
import pytest

import embedding_store.bootstrap
import embedding_store.change
import embedding_store.layout
import embedding_store.rows
from embedding_store.bootstrap import Schema, bootstrap, current_definition
from embedding_store.codec import Block, entry_dtype
from embedding_store.commit import ROOT, CommitId
from embedding_store.dump import load_dump, read_dump
from embedding_store.errors import BadBytes, LogTrimmed, NotEmpty, StoreUnavailable
from embedding_store.log import CommitLog
from embedding_store.materializer import Materializer
from embedding_store.settings import TableSettings
from tests.shards import TABLES, Writer, definition, dump_of, flaky_log, hashes_of, ids_of, log_for, pooled, see, stored

EVERY = [[key, key] for key in range(40)] + [[None, None]]


@pytest.fixture
def log(redis_url: str) -> CommitLog:
    return log_for(redis_url)


def learn(writer: Writer, round_: int) -> None:
    rng = np.random.default_rng(round_)
    see(writer.shard, rng.integers(0, 40, (32, 2)).tolist(), rng.normal(size=(32, 2, 7)), times_ms=1000 + 250 * round_)
    writer.shard.sweep(11)


def written(log: CommitLog, commits: int, folded: int = 0) -> Writer:
    writer = Writer(log)
    for round_ in range(commits):
        learn(writer, round_)
        writer.commit()
        if round_ + 1 == folded:
            Materializer(log, writer.epoch, 0).fold()
    return writer


def test_an_empty_store_gives_nothing(log):
    assert bootstrap(log, learning=True) is None
    log.raise_epoch()
    assert bootstrap(log, learning=True) is None
    assert current_definition(log) == b""
    assert log.client.hlen(log.keys.leases) == 0


@pytest.mark.parametrize("folded", [0, 3, 8])
def test_rows_and_the_log_past_the_mark_make_the_shard(log, folded):
    writer = written(log, 8, folded)
    snapshot = bootstrap(log, learning=True)
    assert dump_of(snapshot) == writer.committed
    assert (snapshot.id, snapshot.definition, snapshot.positions) == (
        writer.head,
        writer.definition,
        writer.positions(),
    )
    assert snapshot.shard.seq == writer.head.seq + 1
    entries = [(entry.id, len(entry.data)) for entry in log.read(ROOT, count=100) if entry.id.seq > folded]
    assert snapshot.tail_bytes == entries
    assert log.client.hlen(log.keys.leases) == 0


def test_a_restored_shard_learns_on_as_if_it_had_never_stopped(log):
    writer, other = written(log, 5, 2), written(log_for_same_server(log), 5)
    writer.epoch = log.raise_epoch()
    writer.shard = bootstrap(log, learning=True).shard
    for round_ in range(5, 9):
        learn(writer, round_)
        learn(other, round_)
        writer.commit()
        other.commit()
        assert writer.committed == other.committed
    assert stored(log) == other.committed


def log_for_same_server(log: CommitLog) -> CommitLog:
    options = log.client.connection_pool.connection_kwargs
    return log_for(f"redis://{options['host']}:{options['port']}/0")


def test_a_reader_without_optimizer_state_scores_the_same(log):
    writer = written(log, 6, 3)
    reader = bootstrap(log, learning=False).shard
    assert (pooled(reader, EVERY) == pooled(writer.shard, EVERY)).all()
    rows = int(writer.shard.counts.sum()) + len(TABLES)
    assert reader.rows.memory_bytes == writer.shard.rows.memory_bytes - 8 * rows


@pytest.mark.parametrize("rows_per_hash", [1, 2, 8])
def test_commits_folds_growth_and_trims_during_a_bootstrap_lose_nothing(log, monkeypatch, rows_per_hash):
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", rows_per_hash)
    monkeypatch.setattr(embedding_store.rows, "_HASHES", 2)
    writer = written(log, 4, 2)
    materializer = Materializer(log, writer.epoch, 0)
    scan = embedding_store.bootstrap.scan_rows
    busy = iter(range(4, 50))

    def scanning(log, table):
        for number, found in enumerate(scan(log, table)):
            if number % 4 == 0:
                learn(writer, next(busy))
                writer.commit()
                materializer.fold()
            yield found

    monkeypatch.setattr(embedding_store.bootstrap, "scan_rows", scanning)
    snapshot = bootstrap(log, learning=True)
    monkeypatch.undo()
    assert snapshot.id == writer.head
    assert writer.head.seq >= 6
    assert dump_of(snapshot) == writer.committed == stored(log)


def test_a_reader_whose_lease_ran_out_begins_anew(log, monkeypatch):
    writer = written(log, 3, 1)
    materializer = Materializer(log, writer.epoch, 0)
    scan = embedding_store.bootstrap.scan_rows
    starts = []

    def scanning(log, table):
        if table == TABLES[0].name:
            starts.append(log.state().mark)
            if len(starts) < 3:
                for round_ in range(2):
                    learn(writer, 10 * len(starts) + round_)
                    writer.commit()
                    materializer.fold()
        yield from scan(log, table)

    monkeypatch.setattr(embedding_store.bootstrap, "scan_rows", scanning)
    snapshot = bootstrap(log, learning=True, lease_ms=-1000)
    assert len(starts) == 3
    assert dump_of(snapshot) == writer.committed


def test_a_reader_that_never_catches_up_says_so(log, monkeypatch):
    writer = written(log, 3)
    Materializer(log, writer.epoch, 0).fold()
    log.client.hset(log.keys.state, "head", "9-1")
    monkeypatch.setattr(embedding_store.bootstrap, "_ATTEMPTS", 2)
    with pytest.raises(LogTrimmed, match="trimmed while it was read, 2 times"):
        bootstrap(log, learning=True)
    assert log.client.hlen(log.keys.leases) == 0


def test_a_definition_that_changes_during_a_bootstrap_brings_its_own_tables(log, monkeypatch):
    writer = written(log, 3, 1)
    more = (*TABLES, TableSettings(name="more", dim=2))
    scan = embedding_store.bootstrap.scan_rows
    changes = [1]

    def scanning(log, table):
        if changes:
            changes.pop()
            shard = bootstrap(log, learning=True, define=lambda _: Schema(more, 7)).shard
            writer.shard, writer.definition = shard, definition(more)
            see(shard, [[1, 2, 3]], gradients=1.0, times_ms=2000)
            writer.commit()
        yield from scan(log, table)

    monkeypatch.setattr(embedding_store.bootstrap, "scan_rows", scanning)
    snapshot = bootstrap(log, learning=False)
    assert [table.name for table in snapshot.shard.tables] == ["wide", "narrow", "more"]
    assert (pooled(snapshot.shard, [[1, 2, 3]]) == pooled(writer.shard, [[1, 2, 3]])).all()


def test_tables_that_a_reader_does_not_want_are_left_out(log):
    writer = written(log, 4, 2)
    snapshot = bootstrap(log, learning=True, define=lambda _: Schema(TABLES[1:], 7))
    assert snapshot.shard.counts.tolist() == writer.shard.counts[1:].tolist()
    ids = [[key] for key in range(40)]
    assert (pooled(snapshot.shard, ids)[:, 0] == pooled(writer.shard, EVERY[:40])[:, 1, :3]).all()


def test_a_dropped_table_is_gone_for_readers_at_any_mark(log):
    writer = written(log, 4, 2)
    writer.shard.remove(1, ids_of(writer.shard, 1))
    writer.shard.take_changes()
    writer.commit(dropped=("narrow",))
    for _ in range(2):
        snapshot = bootstrap(log, learning=True)
        assert snapshot.shard.counts[1] == 0
        Materializer(log, writer.epoch, 0).fold()


def test_a_dropped_table_takes_its_cold_row_along(log):
    writer = written(log, 4, 4)
    writer.commit(dropped=("narrow",))
    learned = [pooled(bootstrap(log, learning=True).shard, [[None, None]])[0, 1]]
    Materializer(log, writer.epoch, 0).fold()
    learned.append(pooled(bootstrap(log, learning=True).shard, [[None, None]])[0, 1])
    assert not np.any(learned)


def test_a_store_whose_rows_and_log_are_gone_is_no_empty_store(log):
    writer = written(log, 3, 3)
    log.client.delete(log.keys.log, log.keys.parts)
    with pytest.raises(BadBytes, match="commits were made, but their rows and log are gone"):
        bootstrap(log, learning=True)
    assert log.state().head == writer.head


def test_a_damaged_row_is_refused(log):
    written(log, 3, 3)
    key = hashes_of(log, "wide")[0]
    field = next(iter(log.client.hkeys(key)))
    log.client.hset(key, field, log.client.hget(key, field)[:-1])
    with pytest.raises(BadBytes, match="table 'wide'"):
        bootstrap(log, learning=True)


def test_an_unreachable_store_is_unavailable(log):
    written(log, 2, 1)
    with pytest.raises(StoreUnavailable):
        bootstrap(flaky_log(log, left=3), learning=True)


def test_a_broken_off_load_is_no_empty_store(log, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_store.change, "CHUNK_ROWS", 7)
    source = written(log_for_same_server(log), 4)
    path = tmp_path / "dump"
    path.write_bytes(source.committed)
    with pytest.raises(StoreUnavailable):
        load_dump(flaky_log(log, left=5), read_dump(path))
    assert log.state().empty
    with pytest.raises(NotEmpty, match="broken off"):
        bootstrap(log, learning=True)


def test_a_commit_of_nothing_but_a_definition_makes_an_empty_shard(log):
    writer = Writer(log)
    writer.commit()
    snapshot = bootstrap(log, learning=True)
    assert snapshot.id == CommitId(1, 1)
    assert snapshot.shard.counts.tolist() == [0, 0]
    assert orjson.loads(snapshot.definition)["seed"] == 7


def test_rows_of_a_layout_that_nobody_knows_are_left_out():
    shard = embedding_store.bootstrap.Shard([TableSettings(name="t", dim=3)], 7)
    for layout, dim in ((9, 3), (0, 5)):
        entries = np.zeros(1, dtype=entry_dtype(dim, 2))
        entries["version"], entries["layout"], entries["id"], entries["count"] = 1, layout, 4, 1
        shard.apply(Block("t", entries))
    assert shard.counts.tolist() == [0]
