"""A real joiner on real brokers: what it joins is what a plain join of both logs gives, through kills too."""

import random
import signal
import time
from pathlib import Path

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tests.e2e.joiner_storm import JoinerProcess, Topology, run_storm
from tests.streams import Behaviour, behave


@pytest.mark.timeout(600)
def test_examples_are_those_of_a_plain_join_through_five_kills(tmp_path: Path, bootstrap_servers: str, request) -> None:
    embedded = request.node.callspec.params["bootstrap_servers"] == "embedded"
    kills = 0 if embedded else 5  # the embedded broker shows what an aborted transaction wrote
    outcome = run_storm(tmp_path, bootstrap_servers, kills, seed=7, limit=10_000 if embedded else 40_000)
    assert outcome.counted == kills
    assert outcome.examples > 10_000
    assert (outcome.missing, outcome.surplus) == (0, 0)


@pytest.mark.timeout(300)
def test_a_silent_partition_gives_way_and_malformed_messages_become_dead_letters(
    tmp_path: Path, bootstrap_servers: str
) -> None:
    topology = Topology(bootstrap_servers, [behave(1, 10, 0)])
    names = {"DOLMEN_JOINER__ATTRIBUTION_WINDOW": '{"click": "10s", "play": "10s", "like": "10s"}',
             "DOLMEN_JOINER__OUT_OF_ORDERNESS": "0s", "DOLMEN_JOINER__IDLE_AFTER": "300ms"}  # fmt: skip
    joiner = JoinerProcess(tmp_path, topology, **names)
    joiner.wait_for("first example", lambda: joiner.metric("dolmen_joiner_messages_total") > 0)
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    shown = {"request_id": "lone", "ts": 200_000_000, "user": {"id": 1}, "items": [{"id": 1}]}
    for ts in (200_000_000, 200_060_000):
        producer.send(topology.impressions, orjson.dumps({**shown, "request_id": f"lone-{ts}", "ts": ts}), b"k")
    producer.send(topology.actions, b'{"request_id": "x", "ts": 1, "item_id": 2.5, "action": "click"}', b"k")
    producer.flush()
    joiner.wait_for("dead letter", lambda: joiner.metric("dolmen_dead_letters_total") == 1)
    joiner.wait_for("the lone list", lambda: b'"lone-200000000"' in b"".join(topology.read_examples()), 0.2)
    assert joiner.end() == 0, joiner.tail()
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, isolation_level="read_committed")
    consumer.assign([TopicPartition(f"{topology.name}-dead", 0)])
    consumer.seek_to_beginning()
    (letter,) = next(iter(_wait(lambda: consumer.poll(500)).values()))
    headers = dict(letter.headers)
    assert b"item_id" in headers["reason"]
    assert headers["source_topic"] == topology.actions.encode()
    assert b'"item_id": 2.5' in letter.value
    consumer.close()
    producer.close()


@pytest.mark.timeout(300)
def test_a_click_teaches_at_once_with_eager_and_what_waited_is_still_known_after_a_kill(
    tmp_path: Path, bootstrap_servers: str
) -> None:
    topology = Topology(bootstrap_servers, [Behaviour([_list("first", 0)], [_click("first", 0)])])
    names = {"DOLMEN_JOINER__EMIT": "eager", "DOLMEN_JOINER__COMMIT_INTERVAL": "10ms"}
    joiner = JoinerProcess(tmp_path, topology, **names)
    joiner.wait_for("first positive", lambda: joiner.metric("dolmen_joiner_messages_total") >= 1)
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    producer.send(topology.impressions, orjson.dumps(_list("second", 86_400_000)), b"second").get(30)
    joiner.wait_for("the second list", lambda: topology.joined() == topology.written + 1, 0.2)
    joiner.end(signal.SIGKILL)
    joiner = JoinerProcess(tmp_path, topology, **names)
    producer.send(topology.actions, orjson.dumps(_click("second", 86_400_000)), b"second").get(30)
    joiner.wait_for("second positive", lambda: b'"request_id":"second"' in b"".join(topology.read_examples()), 0.2)
    assert joiner.end() == 0, joiner.tail()
    told = [orjson.loads(value) for value in topology.read_examples()]
    (second,) = [message for message in told if message["request_id"] == "second"]
    assert second["items"] == [{"id": 1, "labels": {"click": 1}}]
    producer.close()


@pytest.mark.timeout(300)
def test_a_second_joiner_takes_over_and_the_first_ends(tmp_path: Path, bootstrap_servers: str, request) -> None:
    if request.node.callspec.params["bootstrap_servers"] == "embedded":
        pytest.skip("the embedded broker fences nobody")
    topology = Topology(bootstrap_servers, [behave(3, 50, 0)])
    first = JoinerProcess(tmp_path, topology)
    first.wait_for("both logs", lambda: topology.joined() == topology.written, 0.2)
    second = JoinerProcess(tmp_path, topology)
    second.wait_for("metrics", lambda: "joining 1 partitions" in second.log.read_text().partition("wait")[2])
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    producer.send(topology.actions, orjson.dumps(_click("r1", 1)), b"r1").get(30)
    assert first.process.wait(60) == 3, first.tail()
    assert "another joiner has taken partition 0" in first.tail()
    second.wait_for("the action", lambda: topology.joined() == topology.written + 1, 0.2)
    assert second.end() == 0
    producer.close()


@pytest.mark.timeout(120)
def test_topics_that_cannot_be_paired_stop_the_joiner_with_a_message(tmp_path: Path, bootstrap_servers: str) -> None:
    topology = Topology(bootstrap_servers, [])
    name = f"unequal-{random.getrandbits(32):08x}"
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.create_topics([NewTopic(f"{name}-shown", 2, 1), NewTopic(f"{name}-done", 3, 1)])
    names = {"DOLMEN_EVENTS__TOPICS__IMPRESSIONS": f"{name}-shown", "DOLMEN_EVENTS__TOPICS__ACTIONS": f"{name}-done"}
    joiner = JoinerProcess(tmp_path, topology, **names)
    assert joiner.process.wait(60) == 3
    assert "has 2 partitions" in joiner.tail()
    assert "has 3" in joiner.tail()


def _list(request: str, ts: int) -> dict:
    return {"request_id": request, "ts": ts, "user": {"id": "u"}, "items": [{"id": 1}, {"id": 2}]}


def _click(request: str, ts: int) -> dict:
    return {"request_id": request, "ts": ts + 1, "item_id": 1, "action": "click"}


def _wait(ask):
    limit = time.monotonic() + 60
    while not (found := ask()):
        assert time.monotonic() < limit
    return found
