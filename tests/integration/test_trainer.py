"""A real trainer process against real servers: what it does with broken input, other configurations and lost logs."""

import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from embedding_store.bootstrap import bootstrap
from embedding_store.ids import feature_id
from embedding_store.inspection import describe, inspect_row, verify
from embedding_store.plan import TablePlan
from embedding_store.proposal import Proposal, propose
from embedding_store.removal import drop_table
from embedding_store.replica import Replica
from embedding_store.settings import StoreSettings
from services.local.servers import start_broker
from tests.e2e.storm import Store, TrainerProcess, finish, wait_for, write_stream
from tests.shards import pooled

NOW_MS = int(time.time() * 1000)
ITEM = {"id": 1, "labels": {"click": 1}}


def message(**changes: object) -> dict[str, object]:
    return {"ts": NOW_MS, "user": {"id": "ann"}, "context": {"tab": 1}, "items": [ITEM], **changes}


BROKEN: list[tuple[str, bytes]] = [
    ("not JSON", b'{"ts": 1'),
    ("JSON object", b"[1, 2]"),
    ("`ts` is missing", orjson.dumps({k: v for k, v in message().items() if k != "ts"})),
    ("`ts` must be an integer", orjson.dumps(message(ts="2026-01-01"))),
    ("ahead: `ts`", orjson.dumps(message(ts=NOW_MS + 7_200_000))),
    ("`user` is missing", orjson.dumps({k: v for k, v in message().items() if k != "user"})),
    ("`items` must be a list of at least one", orjson.dumps(message(items=[]))),
    ("`items[1].id` is missing", orjson.dumps(message(items=[ITEM, {"labels": {"click": 0}}]))),
    ("`items[0].labels` is missing", orjson.dumps(message(items=[{"id": 1}]))),
    ("`items[0].labels` has none of the tasks: click", orjson.dumps(message(items=[{"id": 1, "labels": {"buy": 1}}]))),
    ("`items[0].labels.click` must be a number", orjson.dumps(message(items=[{"id": 1, "labels": {"click": "yes"}}]))),
    ("`items[0].weight` must be", orjson.dumps(message(items=[{**ITEM, "weight": -1}]))),
    (
        "`items[0].id`: an id must be an integer or a string, got a float",
        orjson.dumps(message(items=[{**ITEM, "id": 1.5}])),
    ),
    ("`user.id`: an id must be an integer or a string, got null", orjson.dumps(message(user={"id": None}))),
    ("`context.tab`: an id must be", orjson.dumps(message(context={"tab": {"a": 1}}))),
    ("`items[0].duration_ms`: must be a number", orjson.dumps(message(items=[{**ITEM, "duration_ms": "long"}]))),
]


@pytest.fixture
def names() -> dict[str, str]:
    topic = f"trainer-{uuid.uuid4().hex[:8]}"
    return {"DOLMEN_EVENTS__TOPICS__EXAMPLES": topic, "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead",
            "DOLMEN_TRAINER__DETERMINISTIC": "false"}  # fmt: skip


@pytest.fixture
def producer(bootstrap_servers: str) -> Iterator[KafkaProducer]:
    client = KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    yield client
    client.close()


def create(bootstrap_servers: str, topic: str) -> None:
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])


def dead_letters(bootstrap_servers: str, topic: str, count: int) -> list[tuple[bytes, dict[str, str]]]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    found: list[tuple[bytes, dict[str, str]]] = []
    limit = time.monotonic() + 30
    while len(found) < count and time.monotonic() < limit:
        for records in consumer.poll(200).values():
            found += [(r.value, {k: v.decode() for k, v in r.headers}) for r in records]
    consumer.close()
    return found


def test_broken_messages_become_dead_letters_that_name_the_field(
    tmp_path: Path, redis_url: str, bootstrap_servers: str, producer: KafkaProducer, names: dict[str, str]
) -> None:
    topic = names["DOLMEN_EVENTS__TOPICS__EXAMPLES"]
    create(bootstrap_servers, topic)
    for _, value in BROKEN:
        producer.send(topic, value)
    producer.send(topic, orjson.dumps(message(user={"id": "good"}, unknown=1)))
    producer.flush()
    store = Store(redis_url, topic)
    trainer = TrainerProcess(tmp_path, redis_url, bootstrap_servers, topic, **names)
    try:
        wait_for("all messages", lambda: sum(store.offsets(topic).values()) == len(BROKEN) + 1, trainer)
    finally:
        assert trainer.end() == 0
    letters = dead_letters(bootstrap_servers, f"{topic}-dead", len(BROKEN))
    assert len(letters) == len(BROKEN)
    for offset, ((wanted, original), (value, headers)) in enumerate(zip(BROKEN, letters, strict=True)):
        assert wanted in headers["reason"]
        assert value == original
        origin = (headers["source_topic"], headers["source_partition"], headers["source_offset"])
        assert origin == (topic, "0", str(offset))
    assert inspect_row(store.log, "user", "good") is not None
    assert inspect_row(store.log, "user", "ann") is None


def test_a_batch_that_is_not_finite_is_not_learned_and_the_stream_goes_on(
    tmp_path: Path, redis_url: str, bootstrap_servers: str, producer: KafkaProducer, names: dict[str, str]
) -> None:
    topic = names["DOLMEN_EVENTS__TOPICS__EXAMPLES"]
    create(bootstrap_servers, topic)
    store = Store(redis_url, topic)
    trainer = TrainerProcess(tmp_path, redis_url, bootstrap_servers, topic, **names)
    try:
        wait_for("first commit", lambda: bool(store.offsets(topic)), trainer)
        producer.send(topic, orjson.dumps(message(user={"id": "heavy"}, items=[{**ITEM, "weight": 1e300}]))).get(30)
        wait_for("the heavy one", lambda: store.offsets(topic) == {"0": 1}, trainer)
        producer.send(topic, orjson.dumps(message(user={"id": "light"}))).get(30)
        wait_for("the light one", lambda: store.offsets(topic) == {"0": 2}, trainer)
    finally:
        assert trainer.end() == 0
    ((_, headers),) = dead_letters(bootstrap_servers, f"{topic}-dead", 1)
    assert headers["reason"].startswith("not_finite")
    assert inspect_row(store.log, "user", "heavy") is None
    assert inspect_row(store.log, "user", "light") is not None
    assert verify(store.log).faults == []


def test_a_changed_configuration_keeps_what_it_can_and_names_what_it_cannot(
    tmp_path: Path, redis_url: str, bootstrap_servers: str, producer: KafkaProducer, names: dict[str, str]
) -> None:
    topic = names["DOLMEN_EVENTS__TOPICS__EXAMPLES"]
    create(bootstrap_servers, topic)
    producer.send(topic, orjson.dumps(message())).get(30)
    store = Store(redis_url, topic)

    def features(*known: str) -> str:
        sources = {"user": "user.id", "video": "item.id", "tab": "context.tab"}
        return json.dumps([{"name": name, "kind": "id", "source": sources[name]} for name in known])

    def run(**overrides: str) -> TrainerProcess:
        overrides["DOLMEN_STATISTICS"] = "[]"
        return TrainerProcess(tmp_path, redis_url, bootstrap_servers, topic, **names, **overrides)

    first = run(DOLMEN_FEATURES=features("user", "video"), DOLMEN_TABLES="[]")
    wait_for("first message", lambda: store.offsets(topic) == {"0": 1}, first)
    assert first.end() == 0
    before = inspect_row(store.log, "user", "ann")

    second = run(DOLMEN_FEATURES=features("user", "tab"), DOLMEN_TABLES="[]")
    wait_for("new definition", lambda: "tab" in describe(store.log)["tables"], second)
    assert second.end() == 0
    assert "table 'tab' is new" in second.tail()
    assert "table 'video' is no longer used" in second.tail()
    assert inspect_row(store.log, "user", "ann") == before
    assert inspect_row(store.log, "video", "1") is not None

    narrow = '[{"name": "user", "dim": 4}]'
    third = run(DOLMEN_FEATURES=features("user", "tab"), DOLMEN_TABLES=narrow)
    assert third.process.wait(60) == 3
    assert "tables.user.dim" in third.tail()
    assert "dolmen store drop user --yes" in third.tail()

    drop_table(store.log, "video")
    drop_table(store.log, "user")
    fourth = run(DOLMEN_FEATURES=features("user", "tab"), DOLMEN_TABLES=narrow)
    wait_for("dropped table again", lambda: "user" in describe(store.log)["tables"], fourth)
    producer.send(topic, orjson.dumps(message())).get(30)
    wait_for("second message", lambda: store.offsets(topic) == {"0": 2}, fourth)
    assert fourth.end() == 0
    row = inspect_row(store.log, "user", "ann")
    assert row is not None
    assert (row["count"], len(row["vector"])) == (1, 4)
    assert verify(store.log).faults == []


class Nobody:
    """A follower that needs nothing."""

    def restarted(self, snapshot: object) -> None: ...

    def applied(self, commit_id: object, commit: object) -> None: ...


def test_a_plan_given_to_a_running_trainer_takes_effect_there_and_in_readers(
    tmp_path: Path, redis_url: str, bootstrap_servers: str, producer: KafkaProducer, names: dict[str, str]
) -> None:
    topic = names["DOLMEN_EVENTS__TOPICS__EXAMPLES"]
    create(bootstrap_servers, topic)
    store = Store(redis_url, topic)
    plan = TablePlan((3,), ((0, 5), (0, 1, 2, 5)))

    def learn(count: int, offset: int) -> None:
        for _ in range(count):
            producer.send(topic, orjson.dumps(message(items=[{**ITEM, "id": 7}, {**ITEM, "id": 100 + offset}])))
        producer.flush()
        wait_for("messages", lambda: store.offsets(topic) == {"0": offset}, trainer)

    def plans() -> dict[str, TablePlan]:
        snapshot = bootstrap(store.log, learning=True)
        return snapshot.shard.layouts.plans if snapshot else {}

    trainer = TrainerProcess(tmp_path, redis_url, bootstrap_servers, topic, **names)
    replica = Replica(StoreSettings(url=redis_url, prefix=topic), Nobody())
    try:
        learn(2, 2)
        replica.start()
        wait_for("replica", lambda: replica.snapshot is not None, trainer)
        began = replica.snapshot
        propose(store.log, Proposal("video", plan))
        wait_for("the plan", lambda: plans() == {"video": plan}, trainer)
        learn(3, 5)
        propose(store.log, Proposal("topic", TablePlan((), ((9,),))))  # not of this table: told, and not taken over
        learn(1, 6)
        assert plans() == {"video": plan}
        wait_for("the replica's last commit", lambda: replica.snapshot.id == store.log.state().head, trainer)  # type: ignore[union-attr]
        snapshot, reader = bootstrap(store.log, learning=True), replica.snapshot
        assert snapshot is not None
        assert reader is not None
        assert reader is began
        video, width = reader.shard.number["video"], len(reader.shard.tables)
        ids = [[feature_id(key)] * width for key in (7, 102, 105, 106, 1)]
        assert (pooled(reader.shard, ids) == pooled(snapshot.shard, ids)).all()
        assert sorted(np.flatnonzero(pooled(reader.shard, ids)[0, video, 1:])) == [0, 1, 2, 5]
        assert sorted(np.flatnonzero(pooled(reader.shard, ids)[3, video, 1:])) == [0, 5]
    finally:
        replica.stop()
        assert trainer.end() == 0
    assert describe(store.log)["tables"]["video"]["widths"] == {"2": 2, "4": 2}
    row = inspect_row(store.log, "video", "7")
    assert row is not None
    assert (row["count"], len(row["vector"])) == (6, 4)
    assert verify(store.log).faults == []


SEARCH = orjson.dumps(
    {"tables": ["user", "video"], "align": [1000, 2000], "interval": 600, "least": 200, "gain": 0.02, "rate": 0.3}
).decode()


def killed_and_finished(
    start: Callable[[str], TrainerProcess],
    store: Store,
    topic: str,
    messages: int,
    kills: int,
    due: Callable[[TrainerProcess, int], bool],
) -> dict[str, TablePlan]:
    """Plans in force at the end of a topic whose trainer was killed so often, each time once a kill is due."""
    killed = 0
    for turn in range(kills):
        trainer = start(store.log.keys.prefix)
        wait_for("the time to kill", lambda: due(trainer, turn), trainer)  # noqa: B023 - called at once
        trainer.end(signal.SIGKILL)
        killed += sum(store.offsets(topic).values()) < messages
    assert killed or not kills
    finish(store, start(store.log.keys.prefix), topic, messages)
    assert verify(store.log).faults == []
    snapshot = bootstrap(store.log, learning=True)
    assert snapshot is not None
    return dict(snapshot.shard.layouts.plans)


@pytest.mark.timeout(900)
def test_what_the_live_search_finds_is_the_same_with_and_without_kills(
    tmp_path: Path, redis_url: str, bootstrap_servers: str, names: dict[str, str]
) -> None:
    topic = names["DOLMEN_EVENTS__TOPICS__EXAMPLES"]
    names["DOLMEN_TRAINER__DETERMINISTIC"] = "true"
    names["DOLMEN_TRAINER__DIMENSION_SEARCH"] = "auto"
    names["DOLMEN_TRAINER__SEARCH"] = SEARCH
    messages = write_stream(bootstrap_servers, topic, 8_000)
    start = partial(TrainerProcess, tmp_path, redis_url, bootstrap_servers, **names)
    dumps = []
    for kills in (0, 2):
        store = Store(redis_url, f"{topic}-{kills}")

        def due(trainer: TrainerProcess, turn: int) -> bool:
            return sum(store.offsets(topic).values()) > turn * messages // 3  # noqa: B023 - called in this round

        plans = killed_and_finished(start, store, topic, messages, kills, due)
        assert any(plan.matrix is not None and len(plan.kept) > 1 for plan in plans.values()), plans
        dumps.append(store.dump(tmp_path / f"{kills}.dump"))
    assert dumps[0] == dumps[1]


def test_a_plan_from_an_offset_on_is_the_same_with_and_without_kills(
    tmp_path: Path, redis_url: str, bootstrap_servers: str, names: dict[str, str]
) -> None:
    topic = names["DOLMEN_EVENTS__TOPICS__EXAMPLES"]
    names["DOLMEN_TRAINER__DETERMINISTIC"] = "true"
    messages = write_stream(bootstrap_servers, topic, 12_000)
    plan = TablePlan((2, 8), ((0,), (0, 3), tuple(range(8))))
    start = partial(TrainerProcess, tmp_path, redis_url, bootstrap_servers, **names)
    dumps = []
    for kills in (0, 3):
        store = Store(redis_url, f"{topic}-{kills}")
        propose(store.log, Proposal("video", plan, from_offset=messages // 3))
        plans = killed_and_finished(start, store, topic, messages, kills, lambda trainer, _: trainer.consumed() > 0)
        assert plans == {"video": plan}
        dumps.append(store.dump(tmp_path / f"{kills}.dump"))
    assert dumps[0] == dumps[1]


@pytest.mark.parametrize("policy", ["earliest", "stop"])
def test_a_broker_that_lost_its_log_is_handled_as_configured(
    tmp_path: Path, redis_url: str, names: dict[str, str], policy: str
) -> None:
    topic = names["DOLMEN_EVENTS__TOPICS__EXAMPLES"]
    store = Store(redis_url, topic)
    with start_broker(tmp_path / "broker") as broker:
        create(broker.address, topic)
        producer = KafkaProducer(bootstrap_servers=broker.address, acks="all")
        producer.send(topic, orjson.dumps(message(user={"id": "old"}))).get(30)
        producer.close()
        trainer = TrainerProcess(tmp_path, redis_url, broker.address, topic, **names, DOLMEN_EVENTS__ON_LOST_LOG=policy)
        wait_for("first message", lambda: store.offsets(topic) == {"0": 1}, trainer)
        broker.kill()
        broker.restart()
        create(broker.address, topic)
        if policy == "stop":
            assert trainer.process.wait(60) == 3
            assert "events.on_lost_log" in trainer.tail()
            return
        producer = KafkaProducer(bootstrap_servers=broker.address, acks="all")
        producer.send(topic, orjson.dumps(message(user={"id": "new"}))).get(30)
        producer.close()
        wait_for("message of the new log", lambda: inspect_row(store.log, "user", "new") is not None, trainer)
        assert trainer.end() == 0
    snapshot = bootstrap(store.log, learning=True)
    assert snapshot is not None
    assert inspect_row(store.log, "user", "old") is not None
    assert snapshot.positions[topic]["offsets"] == {"0": 1}  # type: ignore[index]
