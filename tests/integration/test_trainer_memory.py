"""A real trainer with everything on: Gaussian weights, statistics, a sequence; killed, restarted, configured anew."""

import json
import signal
import time
import uuid
from pathlib import Path

import numpy as np
import orjson
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from embedding_store.bootstrap import bootstrap
from embedding_store.inspection import inspect_row, verify
from embedding_store.settings import SPARE
from services.local.servers import start_broker
from tests.definitions import FEATURES, PAST, STATISTICS, TABLES, lived_message, statistic
from tests.e2e.storm import Store, TrainerProcess, wait_for
from trainer.definition import Definition

LISTS = 3_000
MORE = statistic("play_count", "user", "count", of="outcomes.play_ms", transform="log")


def configured(statistics: object = STATISTICS, **model: object) -> dict[str, str]:
    """The settings of :func:`tests.definitions.full_definition` as the environment has them."""

    def listed(some: object) -> str:
        return json.dumps([value.model_dump(mode="json", exclude_unset=True) for value in some])  # type: ignore[attr-defined]

    return {
        "DOLMEN_TABLES": listed(TABLES),
        "DOLMEN_FEATURES": listed((*FEATURES, *PAST)),
        "DOLMEN_STATISTICS": listed(statistics),
        "DOLMEN_TASKS": '[{"name": "click"}, {"name": "like"}]',
        "DOLMEN_MODEL": json.dumps({"name": "din", "wide": "gaussian", "hidden": [7, 5], **model}),
    }


def write(broker: str, topic: str) -> int:
    with KafkaAdminClient(bootstrap_servers=broker) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])
    rng = np.random.default_rng(1)
    now_ms = int(time.time() * 1000) - 86_400_000
    producer = KafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=20)
    for n in range(LISTS):
        producer.send(topic, orjson.dumps(lived_message(rng, now_ms + n * 1000)))
    producer.close()
    return LISTS


def test_everything_survives_kills_and_grows_with_the_configuration(tmp_path: Path, redis_url: str) -> None:
    topic = f"memory-{uuid.uuid4().hex[:8]}"
    with start_broker(tmp_path / "broker") as broker:
        write(broker.address, topic)
        names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": topic, "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead"}

        def run(prefix: str, **overrides: str) -> TrainerProcess:
            return TrainerProcess(tmp_path, redis_url, broker.address, prefix, **names, **overrides)

        dumps = []
        for kills in (0, 2):
            prefix = f"{topic}-{kills}"
            store = Store(redis_url, prefix)
            for _ in range(kills):
                trainer = run(prefix, **configured())
                wait_for("first example", lambda: trainer.consumed() > 0, trainer)  # noqa: B023 - called at once
                trainer.end(signal.SIGKILL)
            trainer = run(prefix, **configured())
            wait_for("all messages", lambda: store.offsets(topic) == {"0": LISTS}, trainer)  # noqa: B023 - called at once
            assert trainer.end() == 0
            assert verify(store.log).faults == []
            dumps.append(store.dump(tmp_path / f"{kills}.dump"))
        assert dumps[0] == dumps[1]

        user = inspect_row(store.log, "by.user", "1")
        past = inspect_row(store.log, "past", "1")
        weight = inspect_row(store.log, "user", "1")
        assert user is not None
        assert past is not None
        assert weight is not None
        assert len(user["accumulators"]) == 4
        assert len(past["items"]) == 4 + SPARE
        assert all(0 < w["variance"] < 0.1 for w in weight["weights"])

        trainer = run(prefix, **configured((*STATISTICS[1:], MORE)))
        wait_for("the new statistic", lambda: "'play_count' is new" in trainer.tail(), trainer)
        wait_for("its commit", lambda: _statistics(store)[-1] == "play_count", trainer)
        assert trainer.end() == 0
        grown = inspect_row(store.log, "by.user", "1")
        assert grown is not None
        assert [a["value"] for a in grown["accumulators"][:4]] == [a["value"] for a in user["accumulators"]]
        assert verify(store.log).faults == []

        trainer = run(prefix, **configured(wide="ftrl"))
        assert trainer.process.wait(60) == 3
        assert "model.wide" in trainer.tail()
        assert "dolmen store drop user --yes" in trainer.tail()


def _statistics(store: Store) -> list[str]:
    snapshot = bootstrap(store.log, learning=True)
    assert snapshot is not None
    return [s.name for s in Definition.from_json(snapshot.definition).statistics]


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOLMEN_CONFIG", raising=False)
