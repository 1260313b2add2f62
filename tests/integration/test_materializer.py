"""Folding the log into the rows: whatever breaks, rows and log together are the shard."""

import numpy as np
import pytest

import embedding_store.change
import embedding_store.layout
from embedding_store.change import record_changes
from embedding_store.commit import ROOT
from embedding_store.errors import Fenced, LogTrimmed, StoreUnavailable
from embedding_store.log import CommitLog, Entry
from embedding_store.materializer import Materializer
from tests.shards import TABLES, Writer, backup, flaky_log, go_back, hashes_of, log_for, rows_of, see, stored

KEEP = 1 << 30


@pytest.fixture
def log(redis_url: str) -> CommitLog:
    return log_for(redis_url)


def learn(writer: Writer, round_: int, ids: int = 30) -> None:
    rng = np.random.default_rng(round_)
    cells = rng.integers(0, ids, (16, 2)).tolist()
    see(writer.shard, cells, rng.normal(size=(16, 2, 7)), times_ms=1000 + 300 * round_)
    writer.shard.sweep(9)


def written(log: CommitLog, commits: int) -> Writer:
    writer = Writer(log)
    for round_ in range(commits):
        learn(writer, round_)
        writer.commit()
    return writer


def stored_rows(log: CommitLog, table: str) -> dict[bytes, bytes]:
    return {field: row for key in hashes_of(log, table) for field, row in log.client.hgetall(key).items()}


def test_folded_rows_are_the_shards_rows_and_nothing_else(log):
    writer = written(log, 12)
    size = Materializer(log, writer.epoch, KEEP).fold()
    assert size == sum(len(entry.data) for entry in log.read(ROOT, count=100))
    assert log.state().mark == log.state().head == writer.head
    for t, table in enumerate(TABLES):
        # rows that are expired but not swept are there too
        (block,) = writer.shard.blocks(np.append(rows_of(writer.shard, t), t))
        assert stored_rows(log, table.name) == dict(zip(block.fields(), block.rows(), strict=True))
    log.client.delete(log.keys.log)
    log.client.xadd(log.keys.log, {"prev": "0-0", "commit": b""}, id=str(writer.head))
    assert log.client.hget(log.keys.parts, "definition") == writer.definition


def test_nothing_to_fold_is_nothing_done(log):
    writer = written(log, 2)
    materializer = Materializer(log, writer.epoch, KEEP)
    assert materializer.fold() > 0
    assert materializer.fold() == 0
    assert Materializer(log, writer.epoch, KEEP).fold() == 0


def test_folding_a_bounded_number_of_bytes_goes_on_from_there(log):
    writer = written(log, 20)
    materializer = Materializer(log, writer.epoch, KEEP)
    folds = 0
    while materializer.fold(max_bytes=1):
        folds += 1
        assert stored(log) == writer.committed
    assert folds == 20
    assert materializer.mark == writer.head


def test_folding_after_every_commit_gives_what_folding_once_gives(redis_url):
    once, often = log_for(redis_url), log_for(redis_url)
    for log, each in ((once, False), (often, True)):
        writer = Writer(log)
        materializer = Materializer(log, writer.epoch, KEEP)
        for round_ in range(10):
            learn(writer, round_)
            writer.commit()
            if each:
                materializer.fold()
        materializer.fold()
    for table in TABLES:
        assert stored_rows(once, table.name) == stored_rows(often, table.name)
    assert stored(once) == stored(often)


def test_a_dropped_table_goes_with_all_its_rows_and_what_comes_after_stays(log):
    writer = written(log, 4)
    materializer = Materializer(log, writer.epoch, KEEP)
    materializer.fold()
    learn(writer, 4)
    writer.commit()
    writer.shard.clear(0)
    see(writer.shard, [[7, None]], times_ms=2300)
    writer.commit(dropped=("wide",))
    before = stored(log)
    materializer.fold()
    assert stored(log) == before
    rows = stored_rows(log, "wide")
    assert set(rows) == {np.int64(7).tobytes(), b"cold"}


@pytest.mark.parametrize("late", [False, True], ids=["before the command", "after the command"])
def test_a_crash_at_any_command_of_a_fold_loses_and_doubles_nothing(log, late, monkeypatch):
    monkeypatch.setattr(embedding_store.change, "CHUNK_ROWS", 7)
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 3)
    writer = written(log, 8)
    Materializer(log, writer.epoch, KEEP).fold()
    for round_ in range(8, 14):
        learn(writer, round_)
        writer.commit()
    start = backup(log)
    boundary, refused = 0, 0
    while True:
        go_back(log, start)
        shaky = flaky_log(log, left=boundary, late=late)
        try:
            doomed = Materializer(shaky, writer.epoch, KEEP)
            doomed.fold()
        except StoreUnavailable:
            pass
        else:
            break
        assert stored(log) == writer.committed
        epoch = log.raise_epoch()
        successor = Materializer(log, epoch, KEEP)
        successor.fold()
        folded = backup(log)
        shaky.client.left = None
        with pytest.raises(Fenced):
            Materializer(shaky, writer.epoch, KEEP).fold()
        refused += 1
        assert backup(log) == folded
        assert log.state().mark == writer.head
        assert stored(log) == writer.committed
        boundary += 1
    assert boundary == refused > 10


@pytest.mark.parametrize("late", [False, True], ids=["before the command", "after the command"])
def test_the_same_materializer_goes_on_after_an_answer_was_lost(log, late, monkeypatch):
    monkeypatch.setattr(embedding_store.change, "CHUNK_ROWS", 7)
    monkeypatch.setattr(embedding_store.layout, "ROWS_PER_HASH", 3)
    writer = written(log, 6)
    start = backup(log)
    for boundary in range(100):
        go_back(log, start)
        shaky = flaky_log(log)
        materializer = Materializer(shaky, writer.epoch, KEEP)
        shaky.client.left, shaky.client.late, shaky.client.once = boundary, late, True
        try:
            materializer.fold()
        except StoreUnavailable:
            assert stored(log) == writer.committed
            materializer.fold()
        broke = shaky.client.left is None
        assert log.state().mark == writer.head
        assert stored(log) == writer.committed
        if not broke:
            break
    assert boundary > 10


def test_a_stale_materializer_brings_no_deleted_row_back(log):
    writer = written(log, 2)
    stale = Materializer(log, writer.epoch, KEEP)
    row = np.array([b"deleted!row"]).view("V11")
    rows = list(record_changes(log.keys, "wide", np.zeros(1, np.int64), row, 8))
    writer.epoch = log.raise_epoch()
    see(writer.shard, [[1, 1]], times_ms=99_000)
    writer.shard.sweep(1000)
    writer.commit()
    Materializer(log, writer.epoch, KEEP).fold()
    with pytest.raises(Fenced):
        stale.fold()
    with pytest.raises(Fenced):
        log.fold("1:stale", "0-0", "2-1", rows)
    assert stored(log) == writer.committed


def test_entries_that_were_handed_over_are_not_read_back_and_gaps_between_them_are(log, monkeypatch):
    writer = written(log, 3)
    materializer = Materializer(log, writer.epoch, KEEP)
    materializer.fold()
    prevs, read = [], log.read
    monkeypatch.setattr(log, "read", lambda after, count=16: prevs.append(after) or read(after, count))
    for round_, handed in enumerate((True, True, False, True), 3):
        learn(writer, round_)
        prev, new, data = writer.commit()
        if handed:
            materializer.offer(Entry(new, prev, data))
    materializer.fold()
    assert [prev.seq for prev in prevs] == [5, 7]
    assert log.state().mark == materializer.known == writer.head
    assert stored(log) == writer.committed
    assert materializer.fold() == 0


def test_what_is_handed_over_is_bounded_and_lost_by_a_broken_fold_without_harm(log, monkeypatch):
    writer = written(log, 1)
    shaky = flaky_log(log)
    materializer = Materializer(shaky, writer.epoch, keep_bytes=5000)
    for round_ in range(1, 8):
        learn(writer, round_)
        prev, new, data = writer.commit()
        materializer.offer(Entry(new, prev, data))
    assert len(data) < 5000 < 6 * len(data)
    shaky.client.left = 4
    with pytest.raises(StoreUnavailable):
        materializer.fold()
    shaky.client.left = None
    materializer.fold()
    assert log.state().mark == writer.head
    assert stored(log) == writer.committed


def test_the_log_is_trimmed_to_what_may_be_kept_but_never_past_the_mark(log):
    writer = written(log, 10)
    sizes = [len(entry.data) for entry in log.read(ROOT, count=100)]
    Materializer(log, writer.epoch, keep_bytes=sum(sizes[-3:])).fold()
    assert [entry.id.seq for entry in log.read(ROOT)] == [8, 9, 10]
    materializer = Materializer(log, writer.epoch, keep_bytes=0)
    for round_ in (10, 11):
        learn(writer, round_)
        writer.commit()
        materializer.fold()
    assert [entry.id.seq for entry in log.read(ROOT)] == [12]
    assert stored(log) == writer.committed


def test_trimming_waits_for_a_reader_that_bootstraps(log):
    writer = written(log, 5)
    log.lease("reader", 60_000)
    materializer = Materializer(log, writer.epoch, keep_bytes=0)
    materializer.fold()
    assert [entry.id.seq for entry in log.read(ROOT)] == [1, 2, 3, 4, 5]
    log.release("reader")
    learn(writer, 5)
    writer.commit()
    materializer.fold()
    assert [entry.id.seq for entry in log.read(ROOT)] == [6]


def test_a_log_that_does_not_follow_on_the_mark_is_never_folded(log):
    writer = written(log, 5)
    log.client.xdel(log.keys.log, str(log.read(ROOT)[0].id))
    with pytest.raises(LogTrimmed, match="follows"):
        Materializer(log, writer.epoch, KEEP).fold()
    assert log.state().mark == ROOT


def test_a_commit_that_comes_while_the_materializer_looks_is_no_step_back(log, monkeypatch):
    writer = written(log, 2)
    materializer = Materializer(log, writer.epoch, KEEP)
    state = log.state

    def looking():
        found = state()
        learn(writer, writer.offset)
        writer.commit()
        materializer.known = writer.head
        return found

    monkeypatch.setattr(log, "state", looking)
    materializer.fold()
    monkeypatch.undo()
    assert stored(log) == writer.committed


def test_shards_with_another_prefix_are_left_alone(redis_url):
    one, other = log_for(redis_url), log_for(redis_url)
    first = written(one, 3)
    before = stored(one)
    second = written(other, 5)
    Materializer(other, second.epoch, 0).fold()
    assert stored(one) == before == first.committed
