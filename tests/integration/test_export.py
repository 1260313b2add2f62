"""Rows as a Parquet file: what each id scores with, at full width."""

import numpy as np
import pyarrow.parquet
import pytest

import embedding_store.layout
import embedding_store.stored
from embedding_store.export import export_parquet
from embedding_store.ids import feature_id
from embedding_store.log import CommitLog
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.stored import read_stored
from tests.shards import TABLES, Writer, log_for, pooled, see

MATRIX = tuple(tuple(float((3 * i + 5 * j) % 7 - 3) for j in range(6)) for i in range(6))
PLAN = TablePlan(bounds=(3,), kept=((1,), (0, 1, 4)), matrix=MATRIX)
STRING = feature_id("drama")


@pytest.fixture
def log(redis_url, monkeypatch) -> CommitLog:
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 8)
    monkeypatch.setattr(embedding_store.stored, "_HASHES_PER_PART", 2)
    return log_for(redis_url)


@pytest.fixture
def writer(log) -> Writer:
    """Two tables, one with a plan and a matrix, some rows re-encoded and some not, a few expired."""
    writer = Writer(log)
    for round_ in range(4):
        rng = np.random.default_rng(round_)
        examples = [*rng.integers(0, 300, (200, 2)).tolist(), [STRING, STRING]]
        see(writer.shard, examples, rng.normal(size=(201, 2, 7)), times_ms=1000 + 450 * round_)
        writer.commit()
        if round_ == 1:
            Materializer(log, writer.epoch, 1 << 30).fold()
            writer.shard.set_plan("wide", PLAN)
    return writer


def exported(log: CommitLog, path, tables) -> list[dict]:
    with read_stored(log) as shard:
        count = export_parquet(path, shard, tables)
    table = pyarrow.parquet.read_table(path)
    assert table.num_rows == count
    return table.to_pylist()


def test_every_row_is_exported_with_what_it_scores_with(log, writer, tmp_path):
    rows = exported(log, tmp_path / "all.parquet", ["wide", "narrow"])
    for t, table in enumerate(TABLES):
        mine = [row for row in rows if row["table"] == table.name]
        live = writer.shard.rows.headers[writer.shard.live_rows(t)]
        assert 0 < live.size < 301
        assert sorted(row["id"] for row in mine if row["kind"] != "cold") == sorted(live["id"].astype(np.int64))
        scored = pooled(writer.shard, [[None if r["kind"] == "cold" else r["id"]] for r in mine], tables=[t])[:, 0]
        assert [row["linear"] for row in mine] == scored[:, 0].tolist()
        np.testing.assert_array_equal([row["vector"] for row in mine], scored[:, 1 : 1 + table.dim])
        by_id = {int(header["id"]): header for header in live}
        for row in mine:
            if row["kind"] != "cold":
                assert row["kind"] == ("string" if row["id"] == STRING else "integer")
                assert row["count"] == by_id[row["id"]]["count"]
                assert row["last_seen"].timestamp() * 1000 == by_id[row["id"]]["last_seen"]


def test_each_table_has_one_cold_row_and_it_comes_first(log, writer, tmp_path):
    rows = exported(log, tmp_path / "all.parquet", ["wide", "narrow"])
    assert [row["table"] for row in rows if row["kind"] == "cold"] == ["wide", "narrow"]
    first = [n for n, row in enumerate(rows) if n == 0 or row["table"] != rows[n - 1]["table"]]
    assert all(rows[n]["kind"] == "cold" and rows[n]["id"] == 0 for n in first)


def test_a_matrix_is_applied(log, writer, tmp_path):
    """Whatever the frame, it is the vector that is written: another matrix that keeps all numbers changes nothing."""
    plain = writer.shard.layouts.plans["wide"]
    rows = {row["id"]: row["vector"] for row in exported(log, tmp_path / "with.parquet", ["wide"])}
    writer.shard.set_plan("wide", TablePlan((), (tuple(range(6)),)))
    see(writer.shard, [[10_000, 10_000]], times_ms=2350)
    writer.commit()
    for row in exported(log, tmp_path / "without.parquet", ["wide"]):
        if row["id"] in rows and row["id"] not in (0, 10_000):
            vector = np.array(row["vector"], dtype=np.float32)
            np.testing.assert_allclose(rows[row["id"]], vector, rtol=1e-4, atol=1e-5)
            numbers = np.linalg.inv(np.array(MATRIX)) @ vector
            dropped = sorted(set(range(6)) - set(plain.kept[row["count"] >= 3]))
            np.testing.assert_allclose(numbers[dropped], 0.0, atol=1e-5)


def test_one_table_alone_can_be_exported(log, writer, tmp_path):
    assert {row["table"] for row in exported(log, tmp_path / "one.parquet", ["narrow"])} == {"narrow"}
    with pytest.raises(KeyError):
        exported(log, tmp_path / "none.parquet", ["nothing"])
    assert not (tmp_path / "none.parquet").exists()


def test_rows_are_written_in_groups(log, writer, tmp_path):
    exported(log, tmp_path / "all.parquet", ["wide", "narrow"])
    assert pyarrow.parquet.ParquetFile(tmp_path / "all.parquet").num_row_groups > 4


def test_a_row_that_was_never_seen_has_no_time(redis_url, tmp_path):
    log = log_for(redis_url)
    writer = Writer(log)
    see(writer.shard, [[1, None]])
    writer.commit()
    rows = exported(log, tmp_path / "file", ["narrow", "wide"])
    found = {(row["table"], row["kind"]): row for row in rows}
    assert set(found) == {("wide", "cold"), ("wide", "integer"), ("narrow", "cold")}
    assert found["wide", "cold"]["last_seen"] is None
    assert found["narrow", "cold"]["last_seen"] is not None
    never = Writer(other := log_for(redis_url))
    never.commit()
    assert [row["last_seen"] for row in exported(other, tmp_path / "other", ["narrow", "wide"])] == [None, None]
