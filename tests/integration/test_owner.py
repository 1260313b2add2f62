"""The owner of a shard: commits, folds in the background, and ends when it must."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from embedding_store.bootstrap import bootstrap
from embedding_store.commit import ROOT, Commit, CommitId
from embedding_store.errors import Fenced, LineageBroken, StoreEmptied, StoreUnavailable
from embedding_store.log import CommitLog
from embedding_store.owner import Owner
from embedding_store.settings import StoreSettings
from embedding_store.shard import Shard
from services.local.servers import start_valkey
from tests.shards import SEED, TABLES, backup, definition, dump_of, go_back, log_of, see, settings_for, stored, wipe

LIMIT_S = 30.0
FOLDS_S = 0.2
"""Long enough for a materializer to look again at its store."""


@pytest.fixture
def settings(redis_url: str) -> StoreSettings:
    return settings_for(redis_url, fold_interval="20ms", log_bytes="1MiB")


@pytest.fixture
def log(settings: StoreSettings) -> CommitLog:
    return log_of(settings)


@pytest.fixture
def owner(settings: StoreSettings) -> Iterator[Owner]:
    owner = Owner(settings)
    yield owner
    owner.close()


def change(shard: Shard, round_: int, ballast: int = 0) -> Commit:
    rng = np.random.default_rng(round_)
    see(shard, rng.integers(0, 40, (16, 2)).tolist(), rng.normal(size=(16, 2, 7)), times_ms=1000 + 200 * round_)
    blocks, gone = shard.take_changes()
    parts = {"ballast": rng.bytes(ballast), **shard.parts()}
    return Commit(shard.clock_ms, definition(), {"t": {"offsets": {"0": round_}}}, blocks, gone, parts)


def wait_for(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {LIMIT_S} s"
        time.sleep(0.01)


def test_an_owner_commits_folds_and_restores(owner, settings, log):
    assert owner.open() is None
    shard = Shard(TABLES, SEED)
    for round_ in range(10):
        assert owner.commit(change(shard, round_)) == CommitId(round_ + 1, 1)
    wait_for(lambda: log.state().mark == owner.head and owner.unfolded_bytes == 0, "folding")
    successor = Owner(settings)
    snapshot = successor.open()
    assert snapshot.id == successor.head == CommitId(10, 1)
    assert stored(log) == dump_of(snapshot)
    assert successor.commit(change(snapshot.shard, 10)) == CommitId(11, 2)
    successor.close()


def test_an_owner_that_was_replaced_is_fenced_before_and_after_its_materializer_notices(owner, settings, log):
    owner.open()
    shard = Shard(TABLES, SEED)
    owner.commit(change(shard, 0))
    successor = Owner(settings)
    successor.open()
    before = stored(log)
    with pytest.raises(Fenced):
        owner.commit(change(shard, 1))
    time.sleep(FOLDS_S)
    with pytest.raises(Fenced):
        owner.commit(change(shard, 2))
    assert stored(log) == before
    successor.close()


@pytest.mark.parametrize("noticed", [False, True], ids=["at the commit", "by the materializer first"])
@pytest.mark.parametrize("folded", [False, True], ids=["nothing folded", "folded"])
def test_an_emptied_store_is_told_as_such_whoever_meets_it_first(redis_url, noticed, folded):
    settings = settings_for(redis_url, fold_interval="20ms" if folded else "1h")
    log = log_of(settings)
    owner = Owner(settings)
    owner.open()
    shard = Shard(TABLES, SEED)
    owner.commit(change(shard, 0))
    if folded:
        wait_for(lambda: owner.unfolded_bytes == 0, "folding")
    wipe(log)
    if noticed and folded:
        time.sleep(FOLDS_S)
    with pytest.raises(StoreEmptied, match="commit 1-1 had been made"):
        owner.commit(change(shard, 1))
    with pytest.raises(StoreEmptied, match="commit 1-1 had been made"):
        owner.open()
    assert owner.head == CommitId(1, 1)
    assert log.state().empty
    owner.close()


def test_a_store_that_was_emptied_before_anything_was_committed_is_a_fresh_one(owner, log):
    owner.open()
    wipe(log)
    with pytest.raises(LineageBroken):
        owner.commit(change(Shard(TABLES, SEED), 0))
    assert owner.open() is None
    assert owner.head == ROOT


@pytest.mark.parametrize("noticed", [False, True], ids=["at the commit", "by the materializer first"])
def test_an_owner_whose_store_went_back_in_time_goes_on_from_there(owner, log, noticed):
    owner.open()
    shard = Shard(TABLES, SEED)
    owner.commit(change(shard, 0))
    wait_for(lambda: owner.unfolded_bytes == 0, "folding")
    copy, then = backup(log), stored(log)
    owner.commit(change(shard, 1))
    wait_for(lambda: owner.unfolded_bytes == 0, "folding")
    go_back(log, copy)
    if noticed:
        time.sleep(FOLDS_S)
    with pytest.raises(LineageBroken):
        owner.commit(change(shard, 2))
    snapshot = owner.open()
    assert dump_of(snapshot) == then
    assert owner.commit(change(snapshot.shard, 1)) == CommitId(2, 2)


def test_an_owner_waits_for_the_materializer_once_the_log_is_full(owner, log):
    owner.open()
    shard = Shard(TABLES, SEED)
    for round_ in range(12):
        owner.commit(change(shard, round_, ballast=200_000))
        assert owner.unfolded_bytes <= 2 * (1 << 20)
    wait_for(lambda: owner.unfolded_bytes == 0, "folding")
    assert log.client.xlen(log.keys.log) < 12
    assert bootstrap(log, learning=True).id == owner.head


def test_an_owner_waits_for_a_reader_that_holds_a_full_log_and_may_give_up(settings, log):
    class Enough(Exception):
        pass

    told: list[str] = []

    def waiting(error: StoreUnavailable) -> None:
        told.append(str(error))
        raise Enough

    owner = Owner(settings, waiting)
    owner.open()
    shard = Shard(TABLES, SEED)
    owner.commit(change(shard, 0))
    log.lease("reader", 60_000)

    def commit_on_and_on() -> None:
        for round_ in range(1, 20):
            owner.commit(change(shard, round_, ballast=200_000))

    with pytest.raises(Enough):
        commit_on_and_on()
    assert "a reader that bootstraps still needs it" in told[0]
    assert sum(len(entry.data) for entry in log.read(ROOT, count=100)) < 1 << 20
    log.release("reader")
    wait_for(lambda: log.client.xlen(log.keys.log) < 4, "trimming")
    for round_ in range(20, 30):
        owner.commit(change(shard, round_, ballast=200_000))
    owner.close()


def test_a_materializer_that_failed_ends_the_owner_rather_than_filling_the_log(redis_url):
    settings = settings_for(redis_url, fold_interval="20ms", log_bytes="1MiB")
    log = log_of(settings)
    owner = Owner(settings)
    owner.open()
    log.client.set(log.keys.parts, "no hash")
    shard = Shard(TABLES, SEED)

    def commit_on_and_on() -> None:
        for round_ in range(100):
            owner.commit(change(shard, round_, ballast=200_000))

    with pytest.raises(Exception, match="WRONGTYPE"):
        commit_on_and_on()
    assert log.client.xlen(log.keys.log) < 10
    owner.close()


def test_an_owner_waits_while_its_server_is_away_and_commits_once(tmp_path):
    with start_valkey(tmp_path) as server:
        settings = settings_for(server.url, timeout="1s", fold_interval="50ms")
        log = log_of(settings)
        attempts = []

        def waiting(error: StoreUnavailable) -> None:
            attempts.append(str(error))
            if len(attempts) == 3:
                server.restart()

        owner = Owner(settings, waiting)
        owner.open()
        shard = Shard(TABLES, SEED)
        owner.commit(change(shard, 0))
        server.stop()
        assert owner.commit(change(shard, 1)) == CommitId(2, 1)
        assert len(attempts) == 3
        assert "Redis did not answer" in attempts[0]
        assert log.client.xlen(log.keys.log) == 2
        owner.close()


def test_whoever_waits_may_give_up(tmp_path):
    class Enough(Exception):
        pass

    def waiting(error: StoreUnavailable) -> None:
        raise Enough

    with start_valkey(tmp_path) as server:
        owner = Owner(settings_for(server.url, timeout="1s"), waiting)
        owner.open()
        server.stop()
        with pytest.raises(Enough):
            owner.commit(change(Shard(TABLES, SEED), 0))
        owner.close()
