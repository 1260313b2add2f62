"""Looking into a store: what is where, whether it is sound, and removing a table."""

import numpy as np
import pytest

import embedding_store.layout
from embedding_store.bootstrap import Schema, bootstrap
from embedding_store.commit import CommitId
from embedding_store.dump import load_dump, read_dump
from embedding_store.errors import Fenced, StoreUnavailable
from embedding_store.inspection import describe, inspect_row, verify
from embedding_store.log import CommitLog
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.removal import drop_table
from tests.shards import (
    NARROW,
    TABLES,
    Writer,
    definition,
    dump_of,
    entries_of,
    flaky_log,
    foot_of,
    hashes_of,
    head_of,
    keys_of,
    log_for,
    rows_of,
    see,
    stored,
)


@pytest.fixture
def log(redis_url: str) -> CommitLog:
    return log_for(redis_url)


def written(log: CommitLog, commits: int = 6, folded: int = 3) -> Writer:
    writer = Writer(log)
    for round_ in range(commits):
        rng = np.random.default_rng(round_)
        times = 1000 + 250 * round_
        see(writer.shard, rng.integers(0, 40, (32, 2)).tolist(), rng.normal(size=(32, 2, 7)), times)
        writer.shard.sweep(11)
        writer.commit()
        if round_ + 1 == folded:
            Materializer(log, writer.epoch, 1 << 30).fold()
    return writer


def test_a_store_is_described_by_what_it_holds(log):
    writer = written(log)
    found = describe(log)
    assert found["commit"] == 6
    assert found["offsets"] == {"events": {"0": 6}}
    assert found["clock_ms"] == writer.shard.clock_ms
    for t, table in enumerate(TABLES):
        rows = writer.shard.live_rows(t).size
        assert found["tables"][table.name]["rows"] == rows
        assert found["tables"][table.name]["widths"] == {str(table.dim): rows}
        assert found["tables"][table.name]["bytes"] > 0
        assert found["tables"][table.name]["admission"] == {"admit_after": 1, "rule": "count"}
    assert [found["tables"][name]["expire_after"] for name in ("wide", "narrow")] == ["1s", "none"]
    assert found["filter"] is None
    assert (found["log"]["entries"], found["log"]["unfolded"]) == (6, 3)


@pytest.mark.parametrize("folded", [False, True])
def test_rows_are_counted_by_their_width_whether_folded_or_not(log, folded):
    writer = Writer(log)
    writer.shard.set_plan("wide", TablePlan(bounds=(3,), kept=((1,), (0, 1, 4, 5))))
    times = [1500] * 6 + [1000]
    see(writer.shard, [[1, 1], [2, 1], [2, 1], [3, 1], [3, 1], [3, 1], [4, 1]], times_ms=times)
    writer.commit()
    if folded:
        Materializer(log, writer.epoch, 0).fold()
    see(writer.shard, [[2, 2]], times_ms=2100)
    writer.shard.sweep(100)
    writer.commit()
    assert describe(log)["tables"]["wide"]["widths"] == writer.shard.widths(0) == {"1": 1, "4": 2}


def test_a_filter_is_described(log):
    table = NARROW.model_copy(update={"admit_after": 3})
    writer = Writer(log, [table])
    see(writer.shard, [[key] for key in range(100)])
    writer.commit()
    found = describe(log)
    assert found["tables"]["narrow"]["rows"] == 0
    assert found["tables"]["narrow"]["admission"] == {"admit_after": 3, "rule": "count"}
    sieve = found["filter"]
    assert (sieve["bytes"], sieve["window"]) == (writer.shard.filter.nbytes, "7d")
    assert sieve["fill"] == pytest.approx(100 / (sieve["bytes"] / 4), rel=0.05)


def test_an_empty_store_is_described_and_sound(log):
    assert describe(log)["tables"] == {}
    assert verify(log).faults == []


def test_a_row_is_shown_as_it_is(log):
    writer = written(log)
    number = writer.shard.number["narrow"]
    entry = entries_of(writer.shard, writer.shard.live_rows(number)[:1])[0]
    row = inspect_row(log, "narrow", str(entry["id"]))
    assert row["id"] == str(entry["id"])
    assert [row["linear"], *row["vector"]] == entry["values"].tolist()
    assert (row["state"], row["count"]) == (entry["state"].tolist(), int(entry["count"]))
    assert (row["last_seen_ms"], row["commit"]) == (int(entry["last_seen"]), int(entry["seq"]))
    cold = entries_of(writer.shard, np.array([number]))[0]
    assert inspect_row(log, "narrow", "")["id"] == "cold"
    assert inspect_row(log, "narrow", "")["vector"] == cold["values"][1:].tolist()
    assert inspect_row(log, "narrow", "nobody") is None
    with pytest.raises(KeyError):
        inspect_row(log, "nothing", "1")


@pytest.mark.parametrize("folded", [0, 3, 6])
def test_every_row_is_shown_as_of_the_last_commit(log, folded):
    writer = written(log, folded=folded)
    for t, table in enumerate(TABLES):
        live = set(writer.shard.rows.headers["id"][writer.shard.live_rows(t)].tolist())
        for key in range(41):
            row = inspect_row(log, table.name, str(key))
            assert (row is not None) == (key in live)
            if row is not None:
                entry = entries_of(writer.shard, writer.shard.index.lookup(t, np.array([key])))[0]
                assert [row["linear"], *row["vector"], *row["state"]] == [*entry["values"], *entry["state"]]


@pytest.mark.parametrize("folded", [0, 3, 6])
def test_a_sound_store_has_no_fault(log, folded):
    writer = written(log, folded=folded)
    verdict = verify(log)
    assert verdict.faults == []
    assert verdict.checked["log entries"] == 6
    drop_table(log, "wide")
    assert verify(log).faults == []
    assert writer.head.seq == 6


def damage_row(log: CommitLog, place: int, value: int) -> None:
    """Changes one byte of a stored row that the log does not set again."""
    key = hashes_of(log, "narrow")[0]
    field = next(field for field in log.client.hkeys(key) if field != b"cold")
    row = bytearray(log.client.hget(key, field))
    row[place] = value
    log.client.hset(key, field, bytes(row))


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (0, 9, "another version"),
        (2, 9, "unknown layout"),
        (23, 0x7F, "not finite"),
        (35, 0xBF, "not positive"),
    ],
)
def test_a_damaged_row_is_found(log, place, value, fault):
    written(log, folded=6)
    damage_row(log, place, value)
    if fault == "not finite":
        damage_row(log, place - 1, 0xFF)
    assert any(fault in one for one in verify(log).faults)


def test_a_damaged_page_of_the_filter_is_found(log):
    writer = Writer(log, [NARROW.model_copy(update={"admit_after": 3})])
    see(writer.shard, [[key] for key in range(100)])
    writer.commit()
    Materializer(log, writer.epoch, 0).fold()
    verdict = verify(log)
    assert verdict.faults == []
    assert verdict.checked["pages of the filter"] > 0
    key = next(key for key in keys_of(log) if b":rows:#filter:" in key)
    field = log.client.hkeys(key)[0]
    log.client.hset(key, field, log.client.hget(key, field)[:-1])
    assert any("a page of the admission filter" in one for one in verify(log).faults)


def test_an_accumulator_is_checked_for_the_optimizers_that_have_one(log, redis_url):
    for optimizer, faults in (("adagrad", 1), ("adagrad_elementwise", 1), ("adam", 0), ("ftrl", 0)):
        log = log_for(redis_url)
        table = NARROW.model_copy(update={"optimizer": optimizer})
        writer = Writer(log, [table])
        see(writer.shard, [[1]])
        (row,) = rows_of(writer.shard, 0)
        writer.shard.rows.memory[writer.shard.rows.headers["at"][row] + 1 + table.dim] = 0.0
        writer.commit()
        Materializer(log, writer.epoch, 0).fold()
        assert sum("not positive" in one for one in verify(log).faults) == faults


def test_a_row_in_the_wrong_hash_is_found(log, monkeypatch):
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 8)
    written(log, folded=6)
    keys = hashes_of(log, "narrow")
    field = next(field for field in log.client.hkeys(keys[0]) if field != b"cold")
    log.client.hset(keys[1], field, log.client.hget(keys[0], field))
    faults = verify(log).faults
    assert any("another hash" in one for one in faults)
    assert any("rows are stored" in one for one in faults)


@pytest.mark.parametrize("seq", [2, 5], ids=["before the mark", "past the mark"])
def test_a_lacking_log_entry_is_found(log, seq):
    written(log)
    log.client.xdel(log.keys.log, f"{seq}-1")
    assert any(f"commit {seq + 1}-1 follows {seq}-1, not {seq - 1}-1" in one for one in verify(log).faults)


def test_a_damaged_log_entry_is_found(log):
    writer = written(log)
    log.append(writer.epoch, writer.head, CommitId(7, 1), b"no commit")
    assert verify(log).faults == ["log: commit 7-1: a log entry is no commit of this format"]


def test_a_load_that_was_broken_off_is_found(log, redis_url, tmp_path):
    path = tmp_path / "dump"
    path.write_bytes(written(log).committed)
    other = log_for(redis_url)
    with pytest.raises(StoreUnavailable):
        load_dump(flaky_log(other, left=5), read_dump(path))
    assert verify(other).faults == ["a load was broken off: run `dolmen store load` again"]


@pytest.mark.parametrize("folded", [0, 3, 6])
def test_dropping_a_table_takes_its_rows_and_nothing_else(log, folded):
    writer = written(log, folded=folded)
    new = drop_table(log, "wide")
    with pytest.raises(Fenced):
        writer.commit()
    for _ in range(2):
        snapshot = bootstrap(log, learning=True)
        assert snapshot.id == new
        assert [table.name for table in snapshot.shard.tables] == ["narrow"]
        dump = dump_of(snapshot)
        assert foot_of(dump)["rows"] == {"narrow": 1 + writer.shard.live_rows(1).size}
        assert head_of(dump)["offsets"] == {"events": {"0": 6}}
        Materializer(log, log.raise_epoch(), 0).fold()
    assert not any(b":rows:wide:" in key for key in keys_of(log))


def test_a_table_that_comes_back_after_being_dropped_begins_empty_whether_folded_or_not(redis_url):
    dumps = []
    for folded in (False, True):
        log = log_for(redis_url)
        writer = written(log, folded=6)
        writer.head = drop_table(log, "narrow")
        writer.epoch = log.raise_epoch()
        if folded:
            Materializer(log, writer.epoch, 0).fold()
        snapshot = bootstrap(log, learning=True, define=lambda _: Schema(TABLES, 7))
        assert snapshot.shard.counts[snapshot.shard.number[NARROW.name]] == 0
        writer.shard, writer.definition = snapshot.shard, definition()
        writer.commit()
        dumps.append(stored(log))
    assert dumps[0] == dumps[1]


def test_dropping_what_is_not_there_is_told(log):
    written(log)
    with pytest.raises(KeyError):
        drop_table(log, "nothing")
