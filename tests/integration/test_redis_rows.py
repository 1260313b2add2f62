"""Rows in Redis: small hashes that split as a table grows, whoever reads or breaks off meanwhile."""

from types import SimpleNamespace

import numpy as np
import pytest

import embedding_store.bootstrap
import embedding_store.fold
import embedding_store.layout
import embedding_store.rows
from embedding_store.bootstrap import bootstrap
from embedding_store.codec import Block, entry_dtype
from embedding_store.commit import Commit, CommitId, encode
from embedding_store.errors import BadBytes, StoreUnavailable
from embedding_store.fold import Fold, grow
from embedding_store.inspection import verify
from embedding_store.layout import Size, hash_of
from embedding_store.log import CommitLog
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.rows import fetch_rows, read_hashes, read_sizes, scan_rows
from tests.shards import Writer, backup, definition, flaky_log, go_back, hashes_of, keys_of, log_for, stored

DTYPE = entry_dtype(2, 2)


@pytest.fixture
def log(redis_url: str) -> CommitLog:
    return log_for(redis_url)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 4)
    monkeypatch.setattr(embedding_store.fold, "_SPLITS", 3)
    monkeypatch.setattr(embedding_store.rows, "_HASHES", 5)


def block(ids, value: float = 1.0) -> Block:
    entries = np.zeros(len(ids), dtype=DTYPE)
    entries["id"], entries["version"] = ids, 1
    entries["layout"], entries["values"], entries["state"], entries["count"] = 1, value, 0.5, 1
    return Block("narrow", entries)


class Table:
    """A writer of one table, and a dict of what it must hold."""

    def __init__(self, log: CommitLog) -> None:
        self.log = log
        self.epoch = log.raise_epoch()
        self.head = CommitId(0, 0)
        self.rows: dict[bytes, bytes] = {}

    def commit(self, ids=(), value: float = 1.0, gone=()) -> None:
        blocks = [block(ids, value)] if len(ids) else []
        removed = {"narrow": np.array(gone, dtype=np.int64)} if len(gone) else {}
        data = encode(Commit(0, definition(), {}, blocks, removed))
        new = CommitId(self.head.seq + 1, 1)
        self.log.append(self.epoch, self.head, new, data)
        self.head = new
        for name in gone:
            self.rows.pop(np.int64(name).tobytes(), None)
        for some in blocks:
            self.rows.update(zip(some.fields(), some.rows(), strict=True))

    def fold(self, log: CommitLog | None = None) -> None:
        Materializer(log or self.log, self.epoch, 0).fold()


def scanned(log: CommitLog) -> dict[bytes, bytes]:
    return {name: row for _, names, rows in scan_rows(log, "narrow") for name, row in zip(names, rows, strict=True)}


@pytest.mark.usefixtures("small")
def test_a_table_that_grows_and_shrinks_holds_what_a_dict_holds(log):
    table, rng = Table(log), np.random.default_rng(1)
    for round_ in range(25):
        ids = np.unique(rng.integers(0, 60 * (round_ + 1), 80))
        table.commit(ids, round_, rng.integers(0, 60 * (round_ + 1), 30))
        table.fold()
        assert scanned(log) == table.rows
        assert read_sizes(log)["narrow"].rows == len(table.rows)
    hashes = read_sizes(log)["narrow"].hashes
    assert 100 < len(table.rows) / 4 <= hashes + 20
    for places, names, _ in scan_rows(log, "narrow"):
        assert (hash_of(np.frombuffer(b"".join(names), "<i8"), hashes) == places).all()
    assert verify(log).faults == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("late", [False, True], ids=["before the command", "after the command"])
def test_a_fold_with_splits_that_breaks_off_anywhere_is_made_good_by_the_next(log, late):
    table = Table(log)
    table.commit(np.arange(20))
    table.fold()
    table.commit(np.arange(5, 90), 2.0, np.arange(3))
    start, wanted = backup(log), stored(log)
    for boundary in range(1000):
        go_back(log, start)
        shaky = flaky_log(log, left=boundary, late=late)
        try:
            table.fold(shaky)
        except StoreUnavailable:
            assert stored(log) == wanted
        else:
            break
        table.fold()
        assert stored(log) == wanted
        assert scanned(log) == table.rows
        assert read_sizes(log)["narrow"].rows == len(table.rows)
        assert {key.decode() for key in keys_of(log) if b":rows:" in key} == set(hashes_of(log, "narrow"))
    assert boundary > 12


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("stop", range(0, 40, 3))
def test_a_reader_misses_no_row_however_the_table_grows_under_it(log, stop):
    table = Table(log)
    table.commit(np.arange(60))
    table.fold()
    before = dict(table.rows)
    found: dict[bytes, bytes] = {}
    for number, (_, names, rows) in enumerate(scan_rows(log, "narrow")):
        found.update(zip(names, rows, strict=True))
        if number * 10 <= stop < number * 10 + 10:
            table.commit(np.arange(1000, 1000 + 30 * (stop + 1)))
            table.fold()
            table.fold()
    assert {name: found.get(name) for name in before} == before


def test_a_hash_that_is_too_large_for_one_answer_is_read_to_its_end_before_the_next(log, monkeypatch):
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 1000)
    monkeypatch.setattr(embedding_store.rows, "_SCAN", 50)
    table = Table(log)
    table.commit(np.arange(7000))
    table.fold()
    hashes = read_sizes(log)["narrow"].hashes
    assert hashes == 4
    places = [int(place) for some, _, _ in read_hashes(log, "narrow", range(hashes)) for place in some]
    assert places == sorted(places)
    assert len(places) > 7000 / 2
    assert scanned(log) == table.rows


@pytest.mark.usefixtures("small")
def test_single_rows_are_found_in_one_round_trip_and_after_growth_as_well(log):
    table = Table(log)
    table.commit(np.arange(100))
    table.fold()
    ids = np.array([5, 99, 100, -3, 5, 0])
    expected = [table.rows.get(np.int64(i).tobytes()) for i in ids.tolist()]
    sizes = read_sizes(log)
    fetch_rows(log, {"narrow": ids}, sizes)  # the server knows the script from now on
    once = flaky_log(log, left=1)
    found = fetch_rows(once, {"narrow": ids, "nothing": np.arange(2)}, sizes)
    assert found == {"narrow": expected, "nothing": [None, None]}
    assert expected.count(None) == 2
    table.commit(np.arange(100, 900))
    table.fold()
    table.fold()
    assert read_sizes(log)["narrow"].hashes > sizes["narrow"].hashes
    expected[2] = table.rows[np.int64(100).tobytes()]
    assert fetch_rows(log, {"narrow": ids}, sizes) == {"narrow": expected}
    assert sizes["narrow"].hashes == read_sizes(log)["narrow"].hashes
    assert fetch_rows(log, {}, sizes) == {}


def test_an_empty_table_gets_all_its_hashes_at_once(log):
    sent = []
    fold = Fold([Commit(0, b"{}", {}, [block(np.arange(100_000))])])
    assert grow(log, fold, sent.append) == {"narrow": Size(782, 0)}
    assert len(sent) == 1


@pytest.mark.usefixtures("small")
def test_rows_of_several_widths_move_along_in_splits(log):
    writer = Writer(log)
    writer.shard.set_plan("narrow", TablePlan((), ((1,),)))
    for round_ in range(3):
        thin = np.zeros(40, dtype=entry_dtype(1, 2))
        thin["id"], thin["version"], thin["layout"] = np.arange(40) + 40 * round_, 1, 2
        thin["state"], thin["count"] = 1, 1
        blocks = [block(np.arange(500, 540) + 40 * round_), Block("narrow", thin)]
        commit = Commit(0, definition(), {}, blocks, parts=writer.shard.parts())
        new = CommitId(round_ + 1, 1)
        log.append(writer.epoch, writer.head, new, encode(commit))
        writer.head = new
        before = stored(log)
        for _ in range(3):
            Materializer(log, writer.epoch, 0).fold()
        assert stored(log) == before
    assert {len(row) for row in scanned(log).values()} == {DTYPE.itemsize - 8, thin.itemsize - 8}
    assert verify(log).faults == []


def test_rows_that_another_version_laid_elsewhere_are_refused_not_overlooked(log):
    table = Table(log)
    table.commit(np.arange(10))
    table.fold()
    log.client.hset(log.keys.parts, "meta", b'{"clock_ms": 0, "positions": {}}')
    with pytest.raises(BadBytes, match="another version wrote them"):
        bootstrap(log, learning=True)


def test_a_bootstrap_that_takes_longer_than_its_lease_prolongs_it(log, monkeypatch):
    monkeypatch.setattr(embedding_store.rows, "_HASHES", 1)
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 4)
    table = Table(log)
    table.commit(np.arange(100))
    table.fold()
    clock = iter(range(1000))
    monkeypatch.setattr(embedding_store.bootstrap, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    lease, leases = log.lease, []

    def leasing(reader, ttl_ms, at=None):
        leases.append(at)
        found = lease(reader, ttl_ms, at)
        table.commit(np.arange(100), float(len(leases)))
        table.fold()
        return found

    monkeypatch.setattr(log, "lease", leasing)
    snapshot = bootstrap(log, learning=True, lease_ms=6000)
    assert len(leases) > 3
    assert leases[1:] == [CommitId(seq, 1) for seq in range(2, 1 + len(leases))]  # each as far as was read ahead
    assert snapshot.id == table.head
    assert log.client.hlen(log.keys.leases) == 0
