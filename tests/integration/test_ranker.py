"""A real ranker process beside a real trainer: same scores, a click that moves a ranking, and what goes wrong."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from embedding_store.bootstrap import bootstrap
from services.events import parse_action, parse_impression
from services.local.servers import start_broker, start_valkey
from tests.e2e.storm import Store, TrainerProcess, wait_for, write_stream
from trainer.definition import Definition
from trainer.example import request_to_columns
from trainer.learner import Learner

EXAMPLES = 3000


class RankerProcess:
    """A ranker on a free port. Its configuration is the shipped one: the model comes from the store."""

    def __init__(self, directory: Path, redis_url: str, servers: str, prefix: str, **overrides: str) -> None:
        environment = {
            **os.environ,
            "DOLMEN_STORE__URL": redis_url,
            "DOLMEN_STORE__PREFIX": prefix,
            "DOLMEN_STORE__TIMEOUT": "1s",
            "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": servers,
            "DOLMEN_EVENTS__TOPICS__EXAMPLES": prefix,
            "DOLMEN_RANKER__PORT": "0",
            **overrides,
        }
        self.log = directory / f"ranker-{uuid.uuid4().hex[:6]}.log"
        command = [sys.executable, "-P", "-m", "services.cli.main", "ranker"]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        wait_for("listening ranker", lambda: self._address() is not None or self.process.poll() is not None)
        self.url = self._address()
        self.client = httpx.Client(base_url=self.url or "http://127.0.0.1:1", timeout=20, trust_env=False)

    def _address(self) -> str | None:
        found = re.search(r"listens on (http://\S+)", self.log.read_text())
        return found[1] if found else None

    def answers(self, path: str, status: int) -> Callable[[], bool]:
        """Tells whether a GET has a status; false while nobody listens."""

        def check() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return self.client.get(path).status_code == status
            except httpx.TransportError:
                return False

        return check

    def rank(self, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.post("/v1/rank", json=body).raise_for_status().json()
        return answer

    def end(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running(*args: Any, **overrides: str) -> Iterator[RankerProcess]:
    ranker = RankerProcess(*args, **overrides)
    try:
        yield ranker
    finally:
        code = ranker.end()
    assert code == 0, ranker.log.read_text()
    assert "Traceback" not in ranker.log.read_text()


class Stack:
    """Trainer and ranker on one prefix, which is also the topic."""

    def __init__(self, directory: Path, redis_url: str, servers: str, prefix: str) -> None:
        self.directory, self.redis_url, self.servers, self.prefix = directory, redis_url, servers, prefix
        self.store = Store(redis_url, prefix)
        self.messages = write_stream(servers, prefix, EXAMPLES)
        self.topics = {name: f"{prefix}.{name}" for name in ("impressions", "actions")}
        with KafkaAdminClient(bootstrap_servers=servers) as admin:
            admin.create_topics({name: {"num_partitions": 1} for name in self.topics.values()}, wait_for_metadata=True)
        self.trainer = self.start_trainer()
        names = {f"DOLMEN_EVENTS__TOPICS__{name.upper()}": topic for name, topic in self.topics.items()}
        self.ranker = RankerProcess(directory, redis_url, servers, prefix, **names)

    def start_trainer(self, **overrides: str) -> TrainerProcess:
        names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": self.prefix, "DOLMEN_TRAINER__DETERMINISTIC": "false"}
        return TrainerProcess(self.directory, self.redis_url, self.servers, self.prefix, **names, **overrides)

    def settle(self) -> None:
        """Waits until the ranker has what the trainer has."""
        offsets = lambda: self.store.offsets(self.prefix)  # noqa: E731
        wait_for("end of the stream", lambda: sum(offsets().values()) >= self.messages, self.trainer)
        wait_for("ready ranker", self.ranker.answers("/readyz", 200))
        wait_for("same commit", lambda: self.ranker.client.get("/v1/model").json()["commit"] == self.head())

    def head(self) -> int:
        return self.store.log.state().head.seq


@pytest.fixture(scope="module")
def stack(redis_url: str, bootstrap_servers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("ranker"), redis_url, bootstrap_servers, f"ranker-{uuid.uuid4().hex[:8]}")
    try:
        stack.settle()
        yield stack
    finally:
        codes = stack.ranker.end(), stack.trainer.end()
    assert codes == (0, 0)


def random_request(chance: random.Random) -> dict[str, Any]:
    def identity() -> Any:
        return chance.choice([chance.randrange(30_000), str(chance.randrange(300)), f"s{chance.randrange(50)}"])

    def candidate() -> Any:
        item: dict[str, Any] = {"id": identity()}
        if chance.random() < 0.5:
            item["tag"] = [chance.randrange(60) for _ in range(chance.randrange(4))]
        if chance.random() < 0.5:
            item["duration_ms"] = chance.choice([None, chance.randrange(200_000), 1.5, -3])
        if chance.random() < 0.5:
            item["author_id"] = identity()
        return chance.choice([item, item["id"]])

    return {
        "user": chance.choice([{}, {"id": identity()}]),
        "context": chance.choice([{}, {"tab": chance.randrange(14)}]),
        "candidates": [candidate() for _ in range(chance.randrange(1, 40))],
    }


def farthest(stack: Stack, ranker: RankerProcess) -> float:
    """How far any of 100 random requests' scores is from what the trainer's own model gives on the same commit."""
    stack.settle()
    snapshot = bootstrap(stack.store.log, learning=True)
    assert snapshot is not None
    learner = Learner(Definition.from_json(snapshot.definition), snapshot.shard)
    assert learner.load_parts(snapshot.parts) == []
    featurizer = learner.scorer.featurizer
    chance = random.Random(5)
    seen, far = 0, 0.0
    for _ in range(100):
        body = random_request(chance)
        answer = ranker.rank(**body)
        assert answer["model"]["commit"] == snapshot.id.seq
        items = [c if isinstance(c, dict) else {"id": c} for c in body["candidates"]]
        columns = request_to_columns(time.time_ns() // 10**6, body["user"], body["context"], items, featurizer.sources)
        expected = learner.scorer.probabilities(featurizer.featurize(columns))[:, 0]
        scores = [item["score"] for item in answer["items"]]
        far = max(far, float(np.abs(np.sort(scores)[::-1] - np.sort(expected)[::-1]).max()))
        seen += len({round(score, 6) for score in expected.tolist()})
    assert seen > 500, "the scores must differ, or the comparison says nothing"
    return far


def test_random_requests_score_as_the_trainers_own_model_on_the_same_commit(stack: Stack) -> None:
    assert farthest(stack, stack.ranker) <= 1e-6


@pytest.mark.parametrize(
    ("replica", "codec", "error"),
    [("cached", "float32", 1e-6), ("full", "float16", 2e-4), ("cached", "float16", 2e-4), ("cached", "int8", 5e-3)],
)
def test_however_rows_are_held_scores_are_the_trainers_within_the_codecs_error(
    stack: Stack, tmp_path: Path, replica: str, codec: str, error: float
) -> None:
    held = {
        "DOLMEN_RANKER__REPLICA": replica,
        "DOLMEN_RANKER__CODEC": codec,
        "DOLMEN_RANKER__CACHE_MEMORY": "1MiB",
    }
    with running(tmp_path, stack.redis_url, stack.servers, stack.prefix, **held) as ranker:
        wait_for("ready ranker", ranker.answers("/readyz", 200))
        far = farthest(stack, ranker)
        metrics = dict(line.rsplit(" ", 1) for line in ranker.client.get("/metrics").text.splitlines())
    assert far <= error
    assert (float(metrics["dolmen_replica_fetched_total"]) > 1000) == (replica == "cached")


def test_a_click_by_http_moves_the_ranking(stack: Stack) -> None:
    body = {"user": {"id": "ann"}, "context": {"tab": 1}, "candidates": ["x1", "x2", {"id": "x3"}]}
    before = stack.ranker.rank(**body)
    last = before["items"][-1]["id"]
    example = {
        "ts": time.time_ns() // 10**6,
        "user": body["user"],
        "context": body["context"],
        "items": [{"id": i, "labels": {"click": int(i == last)}} for i in ("x1", "x2", "x3")],
    }
    answer = stack.ranker.client.post("/v1/events", json={"examples": [example]})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": []})
    stack.messages += 1
    wait_for("new order", lambda: stack.ranker.rank(**body)["items"][0]["id"] == last, stack.trainer)
    after = stack.ranker.rank(**body)
    assert after["model"]["commit"] > before["model"]["commit"]
    assert len(after["items"]) == 3
    metrics = stack.ranker.client.get("/metrics").text
    assert re.search(r"^dolmen_freshness_seconds_count [1-9]", metrics, re.MULTILINE)


def records(servers: str, topic: str, count: int) -> list[Any]:
    """The first `count` records of a topic, of any partition."""
    consumer = KafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed")
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        found: list[Any] = []
        limit = time.monotonic() + 30
        while len(found) < count and time.monotonic() < limit:
            found += [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
        return found
    finally:
        consumer.close()


def test_what_is_served_and_what_is_posted_reaches_the_topics(stack: Stack) -> None:
    client = stack.ranker.client
    features = {"first_tag": 12, "author_id": "xü"}
    assert client.put("/v1/items/x1", json=features).status_code == 204
    answer = stack.ranker.rank(user={"id": 7}, candidates=["x1", "x2"], log_impression=True)
    (shown,) = records(stack.servers, stack.topics["impressions"], 1)
    assert shown.key == answer["request_id"].encode()
    impression = parse_impression(shown.value)
    assert [(i["id"], i["position"]) for i in impression["items"]] == [
        (item["id"], place) for place, item in enumerate(answer["items"])
    ]
    assert features.items() <= next(i for i in impression["items"] if i["id"] == "x1").items()
    wait_for("the counter", lambda: "dolmen_impressions_total 1.0" in client.get("/metrics").text)
    click = {"request_id": answer["request_id"], "ts": impression["ts"] + 5, "item_id": "x2", "action": "click"}
    posted = client.post("/v1/events", json={"actions": [click], "impressions": [impression, {}]})
    assert (posted.status_code, posted.json()["accepted"]) == (202, 2)
    (done,) = records(stack.servers, stack.topics["actions"], 1)
    assert (done.key, parse_action(done.value)) == (shown.key, click)
    assert len(records(stack.servers, stack.topics["impressions"], 2)) == 2
    assert client.put("/v1/items/x1", json={}).status_code == 204


def with_integers(value: Any) -> Any:
    """A JSON schema takes 3.0 for an integer, and integers of any size; an id may be neither."""
    if isinstance(value, dict):
        return {key: with_integers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_integers(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return max(-(2**63), min(value, 2**64 - 1)) if type(value) is int else value


def keeps_to_its_description(operation: Any, mode: GenerationMode) -> None:
    """Sends generated requests to one operation and checks every answer against the schema."""

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and operation.body:
            case.body = with_integers(case.body)
            case.body.pop("std", None)  # this model has no Gaussian weights
        case.call_and_validate(timeout=10, excluded_checks=excluded)

    # what a feature takes is the running model's to say, so a body after the schema may hold nothing valid
    by_model = operation.path == "/v1/events" or operation.method == "put"
    excluded = [positive_data_acceptance] if by_model else []
    check()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_interface_keeps_to_its_description(stack: Stack, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{stack.ranker.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 9
    for operation in operations:
        if mode is GenerationMode.POSITIVE or operation.body:
            keeps_to_its_description(operation, mode)


def test_a_changed_model_is_taken_over_without_a_restart(stack: Stack) -> None:
    stack.settle()
    assert stack.trainer.end() == 0
    stack.trainer = stack.start_trainer(DOLMEN_MODEL__NAME="deepfm", DOLMEN_MODEL__HIDDEN="[8]")
    wait_for("the new model", lambda: stack.ranker.client.get("/v1/model").json()["model"]["hidden"] == [8])
    assert stack.ranker.client.get("/v1/model").json()["model"]["name"] == "deepfm"
    item = stack.ranker.rank(user={"id": 1}, candidates=[1])["items"][0]
    assert 0 < item["score"] < 1


def test_a_store_that_is_away_leaves_the_last_model_and_is_said_by_readyz(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "valkey") as valkey, start_broker(tmp_path / "broker") as broker:
        prefix = "away"
        with running(tmp_path, valkey.url, broker.address, prefix) as ranker:
            wait_for("refusal", ranker.answers("/readyz", 503))
            early = ranker.client.post("/v1/rank", json={"user": {}, "candidates": [1]})
            assert (early.status_code, early.headers["retry-after"]) == (503, "1")
            assert "empty" in early.json()["detail"]
            with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
                admin.create_topics([NewTopic(prefix, 1, 1)])
            names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": prefix, "DOLMEN_EVENTS__ON_LOST_LOG": "earliest"}
            trainer = TrainerProcess(tmp_path, valkey.url, broker.address, prefix, **names)
            try:
                wait_for("ready ranker", ranker.answers("/readyz", 200), trainer)
                valkey.kill()
                wait_for("not ready", ranker.answers("/readyz", 503))
                assert "Redis" in ranker.client.get("/readyz").json()["detail"]
                assert len(ranker.rank(user={}, candidates=[1, 2])["items"]) == 2
                valkey.restart()
                wait_for("ready again", ranker.answers("/readyz", 200))
            finally:
                code = trainer.end()
            assert code == 0, trainer.tail()
            broker_outage(ranker, broker, prefix)


def broker_outage(ranker: RankerProcess, broker: Any, topic: str) -> None:
    """Events while Kafka is away: an answer in bounded time; once it is back, they are taken again."""
    example = {"ts": 1, "user": {}, "items": [{"id": 1, "labels": {"click": 1}}]}
    post = lambda: ranker.client.post("/v1/events", json={"examples": [example, 7]})  # noqa: E731
    assert post().status_code == 202
    broker.kill()
    answer = post()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "Kafka" in answer.json()["detail"]
    assert [r["index"] for r in answer.json()["rejected"]] == [0, 1]
    broker.restart()
    with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])
    wait_for("events taken again", lambda: post().status_code == 202)


def test_a_taken_port_is_one_clear_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ranker = RankerProcess(tmp_path, "redis://127.0.0.1:1/0", "127.0.0.1:1", "p", DOLMEN_RANKER__PORT=str(port))
        assert ranker.process.wait(30) == 1
        ranker.client.close()
    text = ranker.log.read_text()
    assert f"127.0.0.1:{port}" in text
    assert "ranker.port" in text
    assert "Traceback" not in text


def test_without_any_server_it_answers_and_ends_in_order(tmp_path: Path) -> None:
    with running(tmp_path, "redis://127.0.0.1:1/0", "127.0.0.1:1", "nowhere") as ranker:
        wait_for("alive", ranker.answers("/healthz", 200))
        wait_for("refusal", ranker.answers("/readyz", 503))
        assert "Redis did not answer" in ranker.client.get("/readyz").json()["detail"]
        assert orjson.loads(ranker.client.get("/openapi.json").content)["info"]["title"] == "Dolmen ranker"
