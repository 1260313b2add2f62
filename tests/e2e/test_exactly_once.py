"""Real processes, real crashes: everything is learned exactly once, to the bit."""

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding_store.dump import load_dump, read_dump
from services.datasets.reader import open_dataset
from services.local.servers import Server, start_valkey
from tests.e2e.storm import Store, TrainerProcess, finish, run_storm, wait_for, write_stream

EXAMPLES = 20_000


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    with start_valkey(tmp_path / "valkey") as server:
        yield server


@pytest.mark.timeout(600)
def test_five_kills_leave_the_dump_of_an_uninterrupted_run(
    tmp_path: Path, valkey: Server, bootstrap_servers: str
) -> None:
    outcome = run_storm(tmp_path, valkey, bootstrap_servers, kills=5, seed=7, examples=40_000)
    assert outcome.counted == 5
    assert outcome.store_kills >= 1
    assert outcome.evicted > 0
    assert outcome.returned > 0
    assert outcome.faults == []
    assert outcome.equal


@pytest.mark.timeout(300)
def test_a_zombie_trainer_changes_nothing_and_ends(tmp_path: Path, valkey: Server, bootstrap_servers: str) -> None:
    topic = f"zombie-{uuid.uuid4().hex[:8]}"
    messages = write_stream(bootstrap_servers, topic, EXAMPLES)
    names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": topic, "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead"}
    calm = Store(valkey.url, f"{topic}-calm")
    finish(calm, TrainerProcess(tmp_path, valkey.url, bootstrap_servers, f"{topic}-calm", **names), topic, messages)

    store = Store(valkey.url, topic)
    zombie = TrainerProcess(tmp_path, valkey.url, bootstrap_servers, topic, **names)
    wait_for("first example", lambda: zombie.consumed() > 0, zombie)
    zombie.process.send_signal(signal.SIGSTOP)
    finish(store, TrainerProcess(tmp_path, valkey.url, bootstrap_servers, topic, **names), topic, messages)
    before = store.dump(tmp_path / "before.dump")
    zombie.process.send_signal(signal.SIGCONT)
    assert zombie.process.wait(60) == 3, zombie.tail()
    assert "another trainer owns" in zombie.tail()
    assert store.dump(tmp_path / "after.dump") == before
    assert before == calm.dump(tmp_path / "calm.dump")


@pytest.mark.timeout(300)
def test_over_four_partitions_every_pair_is_counted_once_through_kills(
    tmp_path: Path, valkey: Server, bootstrap_servers: str
) -> None:
    topic = f"four-{uuid.uuid4().hex[:8]}"
    messages = write_stream(bootstrap_servers, topic, EXAMPLES, partitions=4)
    names = {
        "DOLMEN_EVENTS__TOPICS__EXAMPLES": topic,
        "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead",
        "DOLMEN_TRAINER__DETERMINISTIC": "false",
        # rows that expire lose their counts
        "DOLMEN_TABLES": '[{"name": "video"}, {"name": "topic", "dim": 4}]',
        "DOLMEN_STATISTICS": "[]",
        "DOLMEN_FEATURES": """[
            {"name": "user", "kind": "id", "source": "user.id"}, {"name": "video", "kind": "id", "source": "item.id"},
            {"name": "topic", "kind": "id", "source": "item.first_tag"},
            {"name": "tab", "kind": "id", "source": "context.tab"},
            {"name": "tab_x_user", "kind": "cross", "inputs": ["tab", "user"]}]""",
    }
    store = Store(valkey.url, topic)
    for _ in range(2):
        trainer = TrainerProcess(tmp_path, valkey.url, bootstrap_servers, topic, **names)
        wait_for("first example", lambda: trainer.consumed() > 0, trainer)  # noqa: B023 - called at once
        trainer.end(signal.SIGKILL)
    finish(store, TrainerProcess(tmp_path, valkey.url, bootstrap_servers, topic, **names), topic, messages)
    examples = sum(len(message["items"]) for message in open_dataset("kuairand", EXAMPLES).messages())
    assert store.total_count() == 5 * examples


@pytest.mark.timeout(300)
def test_a_store_that_lost_everything_is_rescued_into_a_dump(
    tmp_path: Path, valkey: Server, bootstrap_servers: str
) -> None:
    topic = f"lost-{uuid.uuid4().hex[:8]}"
    messages = write_stream(bootstrap_servers, topic, 2_000)
    names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": topic, "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead"}
    trainer = TrainerProcess(tmp_path, valkey.url, bootstrap_servers, topic, **names)
    store = Store(valkey.url, topic)
    wait_for("end of the stream", lambda: sum(store.offsets(topic).values()) >= messages, trainer)
    store.dump(tmp_path / "wanted.dump")
    store.log.client.flushall()
    write_stream_more(bootstrap_servers, topic)
    assert trainer.process.wait(60) == 3, trainer.tail()
    assert "dolmen store load" in trainer.tail()
    rescued = tmp_path / "data" / "rescue.dump"
    assert read_dump(rescued).rows >= read_dump(tmp_path / "wanted.dump").rows
    store.log.client.flushall()
    load_dump(store.log, read_dump(rescued))
    assert store.dump(tmp_path / "loaded.dump") == rescued.read_bytes()


def write_stream_more(bootstrap_servers: str, topic: str) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    message = b'{"ts": 1650841025500, "user": {"id": "late"}, "items": [{"id": 2, "labels": {"click": 1}}]}'
    producer.send(topic, message).get(30)
    producer.close()
