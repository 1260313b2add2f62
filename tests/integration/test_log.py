"""The commit log on a real server: the fence, the lineage, lost answers, leases."""

import numpy as np
import pytest
import redis

from embedding_store.change import Change, record_changes, size_change, unlink_changes
from embedding_store.commit import ROOT, CommitId
from embedding_store.errors import Fenced, LineageBroken, StoreEmptied, StoreUnavailable
from embedding_store.keys import Keys
from embedding_store.layout import Size
from embedding_store.log import CommitLog, epoch_number
from embedding_store.redis_client import connect
from embedding_store.rows import read_sizes
from embedding_store.settings import StoreSettings
from services.local.ports import claim_port
from tests.shards import backup, flaky_log, go_back, keys_of, log_for, wipe


@pytest.fixture
def log(redis_url: str) -> CommitLog:
    return log_for(redis_url)


def fill(log: CommitLog, count: int) -> tuple[str, list[CommitId]]:
    """Appends some commits in one epoch; gives it and their ids, the root first."""
    epoch = log.raise_epoch()
    ids = [ROOT]
    for seq in range(1, count + 1):
        ids.append(CommitId(seq, epoch_number(epoch)))
        log.append(epoch, ids[-2], ids[-1], b"commit %d" % seq)
    return epoch, ids


def field_change(key: str, name: bytes, value: bytes, table: str = "") -> Change:
    """Sets one field."""
    return Change("set", table, [key.encode()], np.ones(1, np.uint16), len(name), len(name + value), name + value)


def test_a_new_shard_is_empty_and_has_no_owner(log):
    state = log.state()
    assert (state.epoch, state.head, state.mark, state.empty) == (None, ROOT, ROOT, True)
    assert log.read(ROOT) == []
    assert log.last() is None


def test_appended_entries_are_read_in_order_with_their_predecessors(log):
    _, ids = fill(log, 40)
    entries = log.read(ROOT, count=100)
    assert [(e.prev, e.id, e.data) for e in entries] == [(ids[i - 1], ids[i], b"commit %d" % i) for i in range(1, 41)]
    assert [e.id for e in log.read(ids[37])] == ids[38:]
    assert log.last() == entries[-1]
    assert log.state().head == ids[-1]


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_blocking_read_gives_what_a_plain_one_gives_under_both_protocols(log, redis_url, protocol):
    _, ids = fill(log, 3)
    with redis.Redis.from_url(redis_url, protocol=protocol) as client:
        other = CommitLog(client, log.keys)
        assert other.read(ids[1], block_ms=10) == other.read(ids[1]) == log.read(ids[1])
        assert other.read(ids[-1], block_ms=1) == []
        assert other.last() == log.last()
        assert other.state() == log.state()
        assert other.lease("reader", 1000) == ROOT


def test_raising_the_epoch_fences_every_earlier_owner(log):
    old, ids = fill(log, 1)
    new = log.raise_epoch()
    assert epoch_number(new) == epoch_number(old) + 1
    before = backup(log)
    with pytest.raises(Fenced, match=f"since epoch {epoch_number(new)}"):
        log.append(old, ids[-1], CommitId(2, epoch_number(old)), b"zombie")
    with pytest.raises(Fenced):
        log.fold(old, "0-0", str(ids[-1]), [field_change(log.keys.rows("t", 0), b"k", b"v")])
    assert log.trim(old, ids[-1]) is None
    assert backup(log) == before
    log.append(new, ids[-1], CommitId(2, epoch_number(new)), b"successor")


def test_two_owners_that_raised_at_once_have_different_epochs(log):
    assert len({log.raise_epoch() for _ in range(5)}) == 5


def test_an_append_on_another_commit_than_the_last_breaks_the_lineage(log):
    epoch, ids = fill(log, 3)
    before = backup(log)
    for prev in (ids[2], ROOT, CommitId(9, 1)):
        with pytest.raises(LineageBroken, match=f"the last commit is {ids[3]}"):
            log.append(epoch, prev, CommitId(10, 1), b"x")
    assert backup(log) == before


def test_a_store_that_went_back_in_time_is_noticed_by_its_owner(log):
    epoch, ids = fill(log, 2)
    copy = backup(log)
    third = CommitId(3, epoch_number(epoch))
    log.append(epoch, ids[-1], third, b"lost")
    go_back(log, copy)
    with pytest.raises(LineageBroken, match="went back in time"):
        log.append(epoch, third, CommitId(4, epoch_number(epoch)), b"x")


def test_a_store_from_before_the_owners_epoch_is_noticed_as_gone_back_not_as_fenced(log):
    _, ids = fill(log, 2)
    copy = backup(log)
    epoch = log.raise_epoch()
    third = CommitId(3, epoch_number(epoch))
    log.append(epoch, ids[-1], third, b"lost")
    go_back(log, copy)
    with pytest.raises(LineageBroken):
        log.append(epoch, third, CommitId(4, epoch_number(epoch)), b"x")


@pytest.mark.parametrize("late", [False, True])
def test_an_append_without_an_answer_is_settled_by_repeating_it(log, late):
    epoch, ids = fill(log, 1)
    shaky = flaky_log(log, left=0, late=late, once=True)
    args = (epoch, ids[-1], CommitId(2, epoch_number(epoch)), b"once")
    with pytest.raises(StoreUnavailable):
        shaky.append(*args)
    for _ in range(3):
        shaky.append(*args)
    assert [e.data for e in log.read(ROOT)] == [b"commit 1", b"once"]
    assert log.client.xlen(log.keys.log) == 2


def test_a_store_that_was_emptied_is_never_taken_for_a_fresh_one(log):
    epoch, ids = fill(log, 2)
    wipe(log)
    with pytest.raises(StoreEmptied, match=f"commit {ids[-1]} had been made"):
        log.append(epoch, ids[-1], CommitId(3, epoch_number(epoch)), b"x")
    assert keys_of(log) == []


def test_a_lease_holds_trimming_back_until_it_is_released(log):
    epoch, ids = fill(log, 10)
    log.fold(epoch, "0-0", str(ids[4]), [])
    assert log.lease("reader", 60_000) == ids[4]
    log.fold(epoch, str(ids[4]), str(ids[9]), [])
    assert log.trim(epoch, ids[9]) == ids[4]
    assert [e.id for e in log.read(ROOT)] == ids[4:]
    log.release("reader")
    log.release("reader")
    assert log.trim(epoch, ids[9]) == ids[9]
    assert [e.id for e in log.read(ROOT)] == ids[9:]


def test_a_lease_that_ran_out_holds_nothing_back_and_is_forgotten(log):
    epoch, ids = fill(log, 5)
    log.lease("reader", -1000)
    assert log.trim(epoch, ids[5]) == ids[5]
    assert [e.id for e in log.read(ROOT)] == ids[5:]
    assert log.client.hlen(log.keys.leases) == 0


def test_a_lease_that_is_prolonged_stays_where_it_was(log):
    epoch, ids = fill(log, 6)
    log.fold(epoch, "0-0", str(ids[2]), [])
    at = log.lease("reader", 1)
    log.fold(epoch, str(ids[2]), str(ids[5]), [])
    assert log.lease("reader", 60_000, at) == at == ids[2]
    assert log.trim(epoch, ids[6]) == ids[2]


def test_the_oldest_of_several_leases_counts(log):
    epoch, ids = fill(log, 6)
    log.fold(epoch, "0-0", str(ids[2]), [])
    log.lease("slow", 60_000)
    log.fold(epoch, str(ids[2]), str(ids[5]), [])
    log.lease("fast", 60_000)
    assert log.trim(epoch, ids[6]) == ids[2]
    assert log.read(ids[2])[0].prev == ids[2]


def test_a_mark_within_a_fold_leases_the_commit_before_it(log):
    epoch, ids = fill(log, 3)
    log.fold(epoch, "0-0", str(ids[1]), [])
    log.fold(epoch, str(ids[1]), f"{ids[1]}>{ids[3]}#1", [])
    assert log.lease("reader", 1000) == ids[1]
    assert log.state().mark == ids[1]


def test_a_fold_from_another_mark_is_refused_and_changes_nothing(log):
    epoch, ids = fill(log, 2)
    key = log.keys.rows("t", 0)
    log.fold(epoch, "0-0", str(ids[1]), [field_change(key, b"k", b"1")])
    with pytest.raises(LineageBroken):
        log.fold(epoch, "0-0", str(ids[1]), [field_change(key, b"k", b"2")])
    assert log.client.hgetall(key) == {b"k": b"1"}


def test_a_fold_sets_deletes_and_removes_thousands_of_fields_and_counts_them(log):
    epoch, ids = fill(log, 3)
    ten = np.arange(2500) % 10
    records = np.array([b"%08d" % i + b"value %04d" % i for i in range(2500)], dtype="S18").view("V18")
    log.fold(epoch, "0-0", str(ids[1]), [*record_changes(log.keys, "t", ten, records, 8), size_change("t", 10)])
    assert read_sizes(log) == {"t": Size(10, 2500)}
    assert log.client.hgetall(log.keys.rows("t", 3)) == {b"%08d" % i: b"value %04d" % i for i in range(3, 2500, 10)}
    names = np.array([b"%08d" % i for i in range(5, 2505)], dtype="S8").view("V8")
    changes = record_changes(log.keys, "t", (np.arange(2500) + 5) % 10, names, 8)
    log.fold(epoch, str(ids[1]), str(ids[2]), [*changes, field_change(log.keys.rows("t", 3), b"x", b"y", "t")])
    assert log.client.hgetall(log.keys.rows("t", 3)) == {b"00000003": b"value 0003", b"x": b"y"}
    assert read_sizes(log) == {"t": Size(10, 6)}
    log.fold(epoch, str(ids[2]), str(ids[3]), list(unlink_changes(log.keys, "t", range(1, 20))))
    assert read_sizes(log) == {"t": Size(10, 1)}
    assert [log.client.exists(key) for key in log.keys.all_rows("t", 10)] == [1] + 9 * [0]
    log.fold(epoch, str(ids[3]), str(ids[3]), [size_change("t", 0)])
    assert read_sizes(log) == {}


def test_a_server_that_does_not_answer_is_unavailable_for_every_command():
    port = claim_port("127.0.0.1", 0, "local.redis_port")
    log = CommitLog(connect(StoreSettings(url=f"redis://127.0.0.1:{port}/0", timeout="500ms")), Keys("t"))
    for command in (
        log.state,
        log.raise_epoch,
        log.last,
        lambda: log.read(ROOT),
        lambda: log.read(ROOT, block_ms=1),
        lambda: log.lease("r", 1),
        lambda: log.release("r"),
        lambda: log.trim("1:x", ROOT),
        lambda: log.append("1:x", ROOT, CommitId(1, 1), b""),
        lambda: log.fold("1:x", "0-0", "1-1", []),
    ):
        with pytest.raises(StoreUnavailable, match="Redis did not answer"):
            command()


def test_a_server_out_of_memory_is_unavailable_and_goes_on_afterwards(redis_url):
    log = log_for(redis_url)
    epoch, ids = fill(log, 1)
    limit = log.client.config_get("maxmemory")["maxmemory"]
    log.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="Redis cannot take the command now"):
            log.append(epoch, ids[-1], CommitId(2, epoch_number(epoch)), b"x")
    finally:
        log.client.config_set("maxmemory", limit)
    log.append(epoch, ids[-1], CommitId(2, epoch_number(epoch)), b"x")
    assert len(log.read(ROOT)) == 2
