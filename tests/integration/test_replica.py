"""The read side: it follows, and notices when it no longer can."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from embedding_store.bootstrap import Snapshot
from embedding_store.commit import Commit, CommitId
from embedding_store.materializer import Materializer
from embedding_store.replica import Replica
from embedding_store.settings import StoreSettings, TableSettings
from services.local.servers import start_valkey
from tests.shards import TABLES, Writer, backup, definition, go_back, log_of, pooled, see, settings_for, wipe

LIMIT_S = 30.0
EVERY = [[key, key] for key in range(40)] + [[None, None]]


class Listener:
    """Keeps what a replica said that it did."""

    def __init__(self) -> None:
        self.starts: list[CommitId] = []
        self.applied_ids: list[CommitId] = []

    def restarted(self, snapshot: Snapshot) -> None:
        self.starts.append(snapshot.id)

    def applied(self, commit_id: CommitId, commit: Commit) -> None:
        self.applied_ids.append(commit_id)


class Clock:
    """Seconds that pass only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(redis_url: str) -> StoreSettings:
    return settings_for(redis_url)


@pytest.fixture
def writer(settings: StoreSettings) -> Writer:
    return Writer(log_of(settings))


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def replica(settings: StoreSettings, listener: Listener) -> Iterator[Replica]:
    replica = Replica(settings, listener)
    yield replica
    replica.stop()


def commit(writer: Writer, round_: int) -> None:
    rng = np.random.default_rng(round_)
    see(writer.shard, rng.integers(0, 40, (16, 2)).tolist(), rng.normal(size=(16, 2, 7)), times_ms=1000 + 200 * round_)
    writer.shard.sweep(9)
    writer.commit()


def wait_for(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {LIMIT_S} s"
        time.sleep(0.01)


def reaches(replica: Replica, writer: Writer) -> None:
    """Waits until the replica is at the writer's commit, and checks that it scores the same there."""
    wait_for(lambda: replica.snapshot is not None and replica.snapshot.id == writer.head, f"commit {writer.head}")
    with replica.lock:
        shard = replica.snapshot.shard
        assert replica.snapshot.parts == writer.parts
        assert replica.snapshot.positions == writer.positions()
        expected = pooled(writer.shard, EVERY)
        assert (pooled(shard, EVERY) == expected[:, : len(shard.tables)]).all()
        assert shard.counts.tolist() == writer.shard.counts.tolist()


def test_a_replica_follows_commit_by_commit(replica, writer, listener):
    for round_ in range(4):
        commit(writer, round_)
    Materializer(writer.log, writer.epoch, 1 << 30).fold()
    replica.start()
    reaches(replica, writer)
    for round_ in range(4, 30):
        commit(writer, round_)
        if round_ % 9 == 0:
            reaches(replica, writer)
    reaches(replica, writer)
    assert listener.starts == [CommitId(4, 1)]
    assert listener.applied_ids == [CommitId(seq, 1) for seq in range(5, 31)]
    assert replica.error is None


def test_a_replica_of_an_empty_store_waits_for_the_first_commit(replica, writer, listener):
    replica.start()
    wait_for(lambda: replica.error and "nothing was committed yet" in replica.error, "saying that the store is empty")
    assert (replica.snapshot, replica.age_ms, replica.lag_commits) == (None, None, 0)
    commit(writer, 0)
    reaches(replica, writer)
    wait_for(lambda: replica.error is None, "being ready")
    assert listener.starts == [CommitId(1, 1)]


def test_a_new_owner_of_the_shard_is_followed_without_a_new_start(replica, writer, listener):
    commit(writer, 0)
    replica.start()
    reaches(replica, writer)
    writer.epoch = writer.log.raise_epoch()
    commit(writer, 1)
    reaches(replica, writer)
    assert writer.head == CommitId(2, 2)
    assert listener.starts == [CommitId(1, 1)]


def test_a_store_that_went_back_in_time_is_noticed(replica, writer, listener):
    commit(writer, 0)
    copy, shard_then = backup(writer.log), writer.head
    other = Writer(writer.log)
    go_back(writer.log, copy)
    commit(writer, 1)
    commit(writer, 2)
    replica.start()
    reaches(replica, writer)
    go_back(writer.log, copy)
    wait_for(lambda: replica.snapshot.id == shard_then, "going back")
    assert listener.starts == [CommitId(3, 1), shard_then]
    assert other.head.seq == 0


def test_a_store_that_went_back_and_on_by_another_way_is_noticed(replica, writer, listener):
    commit(writer, 0)
    copy = backup(writer.log)
    commit(writer, 1)
    commit(writer, 2)
    replica.start()
    reaches(replica, writer)
    with replica.lock:  # it cannot look in between
        go_back(writer.log, copy)
        successor = Writer(writer.log)
        successor.head, successor.offset = CommitId(1, 1), 1
        for round_ in range(10, 15):
            commit(successor, round_)
    wait_for(lambda: replica.snapshot.id == successor.head, "following the new lineage")
    assert successor.head == CommitId(6, 2)
    assert len(listener.starts) == 2


def test_a_replica_that_meets_a_gap_starts_anew(replica, writer, listener):
    commit(writer, 0)
    replica.start()
    reaches(replica, writer)
    with replica.lock:  # held back while the log moves on and is trimmed
        commit(writer, 1)
        time.sleep(0.3)
        materializer = Materializer(writer.log, writer.epoch, 0)
        for round_ in range(2, 12):
            commit(writer, round_)
            materializer.fold()
    reaches(replica, writer)
    assert listener.starts[0] == CommitId(1, 1)
    assert len(listener.starts) == 2
    assert replica.error is None


def test_a_changed_definition_starts_the_replica_anew_with_its_tables(replica, writer, listener):
    commit(writer, 0)
    replica.start()
    reaches(replica, writer)
    writer.definition = definition((*TABLES, TableSettings(name="more", dim=3)))
    commit(writer, 1)
    wait_for(lambda: len(listener.starts) == 2, "a new start")
    assert [table.name for table in replica.snapshot.shard.tables] == ["wide", "narrow", "more"]
    assert listener.applied_ids == []


def test_an_emptied_store_is_told_and_the_old_rows_go_on_serving(replica, writer):
    commit(writer, 0)
    replica.start()
    reaches(replica, writer)
    expected = pooled(writer.shard, EVERY)
    wipe(writer.log)
    wait_for(lambda: replica.error, "an error")
    assert "empty" in replica.error
    assert (pooled(replica.snapshot.shard, EVERY) == expected).all()


def test_a_damaged_entry_is_told_and_not_applied(replica, writer):
    commit(writer, 0)
    replica.start()
    reaches(replica, writer)
    before, definition_then = writer.head, replica.snapshot.definition
    writer.log.append(writer.epoch, writer.head, CommitId(2, 1), b"no commit")
    wait_for(lambda: replica.error, "an error")
    assert "no commit of this format" in replica.error
    assert (replica.snapshot.id, replica.snapshot.definition) == (before, definition_then)


def test_age_is_the_time_since_the_replica_was_last_at_the_logs_end(settings, listener, writer):
    commit(writer, 0)
    clock = Clock()
    replica = Replica(settings, listener, clock)
    replica.start()
    try:
        reaches(replica, writer)
        wait_for(lambda: replica.age_ms == 0.0, "being at the end")
        clock.now += 2.0
        wait_for(lambda: replica.age_ms == 0.0, "being at the end again")
        assert replica.lag_commits == 0
    finally:
        replica.stop()
    clock.now += 3.0
    assert replica.age_ms == 3000.0


def test_a_server_that_was_killed_and_came_back_is_followed_again(tmp_path, listener):
    with start_valkey(tmp_path) as server:
        settings = settings_for(server.url, timeout="1s")
        writer = Writer(log_of(settings))
        commit(writer, 0)
        replica = Replica(settings, listener)
        replica.start()
        try:
            reaches(replica, writer)
            server.stop()
            wait_for(lambda: replica.error, "an error")
            assert "Redis did not answer" in replica.error
            assert replica.snapshot.id == writer.head
            server.restart()
            commit(writer, 1)
            reaches(replica, writer)
            wait_for(lambda: replica.error is None, "being well again")
        finally:
            replica.stop()
