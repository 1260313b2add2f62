"""A primary dies with commits that its replica never had: the trainer goes back with the store and learns again."""

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from embedding_store.errors import LineageBroken, StoreEmptied
from embedding_store.inspection import verify
from embedding_store.owner import Owner
from embedding_store.redis_client import Client
from embedding_store.replica import Replica
from embedding_store.settings import StoreSettings
from embedding_store.shard import Shard
from services.local.servers import Server, start_valkey
from tests.e2e.storm import Store, TrainerProcess, finish, wait_for, write_stream
from tests.integration.test_owner import change
from tests.servers import Relay, start_redis
from tests.shards import SEED, TABLES, dump_of, pooled, settings_for

EXAMPLES = 20_000


class Pair:
    """A primary and its replica behind one address.

    Attributes:
        relay: The address that clients know.
    """

    def __init__(self, primary: Server, replica: Server) -> None:
        self.primary, self.replica = primary, replica
        self.relay = Relay(port_of(primary))
        with self.client(primary) as client:
            client.config_set("repl-diskless-sync-delay", 0)
        with self.client(replica) as client:
            client.replicaof("127.0.0.1", port_of(primary))

    def client(self, server: Server) -> Client:
        return redis.Redis.from_url(server.url)

    def wait_until_equal(self) -> None:
        """Until the replica has what the primary had when this was called."""
        with self.client(self.primary) as primary, self.client(self.replica) as replica:
            offset = primary.info("replication")["master_repl_offset"]

            def follows() -> bool:
                state = replica.info("replication")
                return state.get("master_link_status") == "up" and state["slave_repl_offset"] >= offset

            until(follows, "replication")

    def detach(self) -> None:
        """From now on the replica stays as it is."""
        with self.client(self.replica) as client:
            client.replicaof("NO", "ONE")

    def fail_over(self) -> None:
        """The primary dies, and its clients find the replica at its address."""
        self.primary.kill()
        self.relay.point_at(port_of(self.replica))


def port_of(server: Server) -> int:
    return int(server.address.rpartition(":")[2])


@pytest.fixture(params=["valkey", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    def start(name: str) -> Server:
        if request.param == "valkey":
            return start_valkey(tmp_path / name)
        return start_redis(tmp_path / name, "--appendonly", "yes")

    with start("primary") as primary, start("replica") as replica:
        pair = Pair(primary, replica)
        yield pair
        pair.relay.close()
        primary.kill()
        replica.kill()


class Nobody:
    def restarted(self, snapshot: object) -> None: ...

    def applied(self, commit_id: object, commit: object) -> None: ...


def until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen"
        time.sleep(0.01)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bootstrap_servers", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    ("pair", "restarted"),
    [("valkey", False), ("redis", True)],
    ids=["valkey, same trainer", "redis, trainer restarted in between"],
    indirect=["pair"],
)
def test_commits_lost_with_the_primary_are_learned_again(tmp_path, pair, bootstrap_servers, restarted):
    topic = f"failover-{uuid.uuid4().hex[:8]}"
    messages = write_stream(bootstrap_servers, topic, EXAMPLES)
    names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": topic, "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead"}
    calm = Store(pair.primary.url, f"{topic}-calm")
    alone = TrainerProcess(tmp_path, pair.primary.url, bootstrap_servers, f"{topic}-calm", **names)
    finish(calm, alone, topic, messages)
    wanted = calm.dump(tmp_path / "calm.dump")

    before = Store(pair.primary.url, topic)
    trainer = TrainerProcess(tmp_path, pair.relay.url, bootstrap_servers, topic, **names)
    wait_for("some commits", lambda: sum(before.offsets(topic).values()) > 0, trainer)
    pair.wait_until_equal()
    pair.detach()
    after = Store(pair.replica.url, topic)
    kept, head = sum(after.offsets(topic).values()), after.log.state().head
    assert kept > 0
    if restarted:
        trainer.end(signal.SIGKILL)
        trainer = TrainerProcess(tmp_path, pair.relay.url, bootstrap_servers, topic, **names)
    wait_for("commits that the replica has not", lambda: before.log.state().head.seq > head.seq + 3, trainer)
    follower = Replica(StoreSettings(url=pair.relay.url, prefix=topic), Nobody())
    follower.start()
    until(lambda: follower.snapshot is not None and follower.snapshot.id.seq > head.seq, "following")
    pair.fail_over()

    finish(after, trainer, topic, messages)
    assert "the store went back in time" in trainer.log.read_text()
    assert after.log.state().head.seq > head.seq
    assert after.dump(tmp_path / "after.dump") == wanted
    assert verify(after.log).faults == []
    until(lambda: follower.snapshot.id == after.log.state().head, "the follower's return")
    follower.stop()


def test_an_owner_with_nothing_to_commit_notices_too(pair):
    settings = settings_for(pair.relay.url, fold_interval="20ms", timeout="2s")
    owner = Owner(settings)
    owner.open()
    shard = Shard(TABLES, SEED)
    owner.commit(change(shard, 0))
    kept = dump_of(owner.open())
    pair.wait_until_equal()
    pair.detach()
    for round_ in (1, 2):
        owner.commit(change(shard, round_))
    owner.check()
    pair.fail_over()
    with pytest.raises(LineageBroken, match="it ends at commit 1-1, not 3-2"):
        until(lambda: owner.check() or False, "notice")
    snapshot = owner.open()
    assert dump_of(snapshot) == kept
    owner.commit(change(snapshot.shard, 1))
    reference = Shard(TABLES, SEED)
    for round_ in (0, 1):
        change(reference, round_)
    every = [[key, key] for key in range(40)] + [[None, None]]
    assert (pooled(snapshot.shard, every) == pooled(reference, every)).all()
    owner.close()


def test_a_replica_that_never_had_anything_is_no_fresh_store(pair):
    settings = settings_for(pair.relay.url, fold_interval="20ms", timeout="2s")
    pair.wait_until_equal()
    pair.detach()
    owner = Owner(settings)
    owner.open()
    owner.commit(change(Shard(TABLES, SEED), 0))
    pair.fail_over()
    with pytest.raises(StoreEmptied):
        until(lambda: owner.check() or False, "notice")
    with pytest.raises(StoreEmptied):
        owner.commit(change(Shard(TABLES, SEED), 1))
    owner.close()
