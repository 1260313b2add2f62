"""A shard that goes through a file instead of memory: the same dump, however the rows lie and whoever works on them."""

import numpy as np
import pytest

import embedding_store.dump
import embedding_store.layout
import embedding_store.stored
from embedding_store.bootstrap import bootstrap
from embedding_store.dump import load_dump, read_dump
from embedding_store.errors import BadBytes, LogTrimmed
from embedding_store.layout import Size, canonical_key, hash_of, part_of_hashes
from embedding_store.log import CommitLog
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.removal import drop_table
from embedding_store.rows import read_sizes
from embedding_store.stored import StoredShard, read_stored
from tests.shards import TABLES, Writer, dump_of, foot_of, hashes_of, log_for, see, stored

IDS = 600
PLAN = TablePlan(bounds=(3,), kept=((1,), (0, 1, 4)))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Every boundary is met by a few hundred rows."""
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 8)
    monkeypatch.setattr(embedding_store.stored, "_HASHES_PER_PART", 2)
    monkeypatch.setattr(embedding_store.dump, "_GROUP_ROWS", 50)
    monkeypatch.setattr(embedding_store.dump, "_LOAD_BYTES", 4000)


def learn(writer: Writer, round_: int, ids: int = IDS) -> None:
    rng = np.random.default_rng(round_)
    examples = rng.integers(0, ids, (200, 2)).tolist()
    see(writer.shard, examples, rng.normal(size=(200, 2, 7)), times_ms=1000 + 300 * round_)
    writer.shard.sweep(37)


def streamed(log: CommitLog) -> bytes:
    with read_stored(log) as shard:
        assert isinstance(shard, StoredShard)
        return dump_of(shard)


def written(log: CommitLog, folds: tuple[int, ...] = (), rounds: int = 6) -> Writer:
    writer = Writer(log)
    for round_ in range(rounds):
        learn(writer, round_)
        writer.commit()
        if round_ in folds:
            Materializer(log, writer.epoch, 1 << 30).fold()
    return writer


@pytest.mark.parametrize("folds", [(), (0,), (2,), (5,), (1, 3), (0, 1, 2, 3, 4, 5)])
def test_how_much_is_folded_makes_no_difference(redis_url, folds):
    log = log_for(redis_url)
    writer = written(log, folds)
    assert streamed(log) == stored(log) == writer.committed


def test_neither_the_number_of_hashes_nor_the_order_of_rows_makes_a_difference(redis_url, monkeypatch):
    dumps = set()
    for rows_per_hash, parts in ((4, 1), (8, 2), (64, 1), (10_000, 256)):
        monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", rows_per_hash)
        monkeypatch.setattr(embedding_store.stored, "_HASHES_PER_PART", parts)
        log = log_for(redis_url)
        writer = Writer(log)
        writer.offset = 10 - rows_per_hash % 3
        keys = np.random.default_rng(rows_per_hash).permutation(IDS)
        for some in np.array_split(keys, 1 + rows_per_hash % 3):
            see(writer.shard, [[int(key), int(key) + 5] for key in some], times_ms=1000)
            writer.commit()
        Materializer(log, writer.epoch, 1 << 30).fold()
        writer.offset = 20
        writer.commit()
        dumps.add(streamed(log))
    assert len(dumps) == 1


def test_expired_rows_are_left_out(redis_url):
    log = log_for(redis_url)
    writer = written(log, folds=(4,))
    wide = writer.shard.number["wide"]
    live = writer.shard.live_rows(wide).size
    assert 0 < live < writer.shard.counts[wide]
    assert foot_of(streamed(log))["rows"]["wide"] == 1 + live


@pytest.mark.parametrize("folds", [(), (2,), (3,), (5,)])
def test_rows_are_as_the_present_plan_has_them_before_they_are_re_encoded(redis_url, folds):
    log = log_for(redis_url)
    writer = Writer(log)
    for round_ in range(6):
        learn(writer, round_)
        writer.commit()
        if round_ == 2:
            writer.shard.set_plan("wide", PLAN)
            writer.commit()
        if round_ in folds:
            Materializer(log, writer.epoch, 1 << 30).fold()
    with read_stored(log) as shard:
        for one in shard.shards(writer.shard.tables[0]):
            assert {len(one.layouts.known[n][1]) for n in one.rows.headers["layout"][one.live_rows(0)]} <= {1, 3}
    assert streamed(log) == stored(log) == writer.committed


def test_what_is_committed_folded_and_split_while_the_rows_are_read_is_in(redis_url, monkeypatch):
    log = log_for(redis_url)
    writer = written(log, folds=(1, 3), rounds=5)
    worker = Materializer(log, writer.epoch, 1 << 30)
    reads, sizes = [], set()
    original = embedding_store.stored.read_hashes

    def read(log, table, hashes):
        if len(reads) % 5 == 0 and len(reads) < 80:
            learn(writer, 10 + len(reads), ids=IDS + 20 * len(reads))
            writer.commit()
            worker.fold()
            sizes.add(read_sizes(log)["narrow"].hashes)
        reads.append(table)
        yield from original(log, table, hashes)

    with monkeypatch.context() as patch:
        patch.setattr(embedding_store.stored, "read_hashes", read)
        found = streamed(log)
    assert len(sizes) > 3
    assert found == writer.committed == stored(log)


def test_a_log_that_was_trimmed_under_the_reader_makes_it_start_over(redis_url, monkeypatch):
    log = log_for(redis_url)
    writer = written(log, folds=(3,))
    original = embedding_store.stored.read_hashes
    trims = []

    def read(log, table, hashes):
        if len(trims) < 3:
            Materializer(log, writer.epoch, 0).fold()
            writer.commit()
            log.client.xtrim(log.keys.log, minid=str(writer.head))
            trims.append(writer.head)
        yield from original(log, table, hashes)

    monkeypatch.setattr(embedding_store.stored, "read_hashes", read)
    assert streamed(log) == writer.committed
    assert len(trims) == 3
    monkeypatch.setattr(embedding_store.stored, "read_hashes", lambda *_: [log.client.xtrim(log.keys.log, 0)][:0])
    writer.commit()
    with pytest.raises(LogTrimmed):
        streamed(log)


def test_the_readers_lease_is_over_when_it_has_read(redis_url):
    log = log_for(redis_url)
    written(log, folds=(3,))
    with read_stored(log):
        assert log.client.hgetall(log.keys.leases) == {}


@pytest.mark.parametrize("folded", [False, True])
def test_a_table_that_was_dropped_is_left_out(redis_url, folded):
    log = log_for(redis_url)
    written(log, folds=(3,))
    drop_table(log, "wide")
    if folded:
        Materializer(log, log.raise_epoch(), 0).fold()
    assert set(foot_of(streamed(log))["rows"]) == {"narrow"}
    assert streamed(log) == stored(log)


def test_a_row_that_cannot_be_read_is_told(redis_url):
    log = log_for(redis_url)
    written(log, folds=(5,))
    key = hashes_of(log, "narrow")[3]
    log.client.hset(key, log.client.hkeys(key)[0], b"nonsense")
    with pytest.raises(BadBytes, match="table 'narrow'"), read_stored(log):
        pass


def test_an_empty_store_has_no_shard(redis_url):
    with read_stored(log_for(redis_url)) as shard:
        assert shard is None


def test_a_loaded_store_has_as_many_hashes_as_one_that_grew(redis_url, tmp_path):
    log = log_for(redis_url)
    writer = written(log, folds=(0, 1, 2, 3, 4, 5))
    (tmp_path / "dump").write_bytes(writer.committed)
    other = log_for(redis_url)
    load_dump(other, read_dump(tmp_path / "dump"))
    sizes = read_sizes(other)
    for table in TABLES:
        rows = 1 + writer.shard.live_rows(writer.shard.number[table.name]).size
        assert sizes[table.name] == Size(-(-rows // 8), rows)
    snapshot = bootstrap(other, learning=True)
    assert dump_of(snapshot) == writer.committed


def test_the_rows_of_each_hash_lie_together_in_canonical_order():
    ids = np.random.default_rng(1).integers(-(1 << 63), 1 << 63, 5000)
    ordered = ids[np.argsort(canonical_key(ids))]
    assert np.unique(canonical_key(ids)).size == np.unique(ids).size
    for hashes in (1, 2, 3, 7, 8, 100, 129):
        places = hash_of(ordered, hashes)
        assert np.count_nonzero(np.diff(places)) == hashes - 1
        for bits in range(hashes.bit_length()):
            parts = (canonical_key(ordered) >> np.uint64(64 - bits)).astype(int) if bits else np.zeros(5000, int)
            for part in range(1 << bits):
                assert set(places[parts == part].tolist()) <= set(part_of_hashes(part, bits, hashes))
