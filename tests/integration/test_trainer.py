"""A real trainer process against real servers: what it does with broken input, other configurations and lost logs."""

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from embedding_store.bootstrap import bootstrap
from embedding_store.inspection import describe, inspect_row, verify
from embedding_store.removal import drop_table
from services.local.servers import start_broker
from tests.e2e.storm import Store, TrainerProcess, wait_for

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
