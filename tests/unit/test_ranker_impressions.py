"""Impressions that the ranker logs: what they hold, and what happens while Kafka is away. And the score's deviation."""

from typing import Any

import numpy as np
import pytest

from services.events import parse_impression
from services.ranker.impressions import impression_of
from services.ranker.sink import SinkUnavailable
from tests.ranking import NOW_MS, World, define, example
from trainer.example import request_to_columns


@pytest.fixture
def world() -> World:
    world = World()
    for _ in range(5):
        world.learn(example("ann", ("a", 1), ("b", 0)))
    return world


def logged(world: World) -> list[dict[str, Any]]:
    assert all(m.topic == "dolmen.impressions" for m in world.sink.messages)
    return [parse_impression(m.value) for m in world.sink.messages]


def dropped(world: World, reason: str) -> float | None:
    return world.metrics.registry.get_sample_value("dolmen_impressions_dropped_total", {"reason": reason})


def sent(world: World) -> float | None:
    return world.metrics.registry.get_sample_value("dolmen_impressions_total")


def test_an_answer_is_logged_as_served(world: World) -> None:
    candidates = [{"id": "a", "genre": ["x"], "labels": {"click": 1}}, "b", 7]
    answer = world.rank({"id": "ann"}, candidates, context={"device": "ios"}, k=2, log_impression=True)
    assert world.impressions.send_some()
    genres = {"a": {"genre": ["x"]}}
    assert len(answer["items"]) == 2
    assert logged(world) == [
        {
            "request_id": answer["request_id"],
            "ts": NOW_MS,
            "user": {"id": "ann"},
            "context": {"device": "ios"},
            "items": [
                {"id": item["id"], **genres.get(item["id"], {}), "position": place}
                for place, item in enumerate(answer["items"])
            ],
        }
    ]
    assert world.sink.messages[0].key == answer["request_id"].encode()
    assert sent(world) == 1


def test_nothing_is_logged_unless_asked_for(world: World) -> None:
    world.rank({}, [1, 2])
    world.rank({}, [1, 2], log_impression=False)
    assert world.impressions.send_some()
    assert not world.sink.messages


def test_an_item_that_was_served_twice_is_logged_at_its_first_place() -> None:
    items = [{"id": 5}, {"id": "5", "genre": "x"}, {"id": True}, {"id": "b"}]
    found = impression_of("r", 1, {}, {}, items)["items"]
    assert found == [{"id": 5, "position": 0}, {"id": True, "position": 2}, {"id": "b", "position": 3}]


def test_while_kafka_is_away_answers_go_on_and_what_does_not_fit_is_counted(world: World) -> None:
    world.sink.down = True
    ids = []
    for _ in range(5):
        ids.append(world.rank({}, [1], log_impression=True)["request_id"])
        assert not world.impressions.send_some()
    assert (dropped(world, "full"), sent(world)) == (2, 0)
    world.sink.down = False
    assert world.impressions.send_some()
    assert [i["request_id"] for i in logged(world)] == ids[:3]
    world.rank({}, [1], log_impression=True)
    assert world.impressions.send_some()
    assert (dropped(world, "full"), sent(world)) == (2, 4)


def test_the_buffer_is_bounded_in_bytes_too(world: World) -> None:
    world.rank({"note": "x" * 1500}, [1], log_impression=True)
    world.rank({"note": "x" * 1500}, [1], log_impression=True)
    world.rank({}, [1], log_impression=True)
    assert dropped(world, "full") == 1
    assert world.impressions.send_some()
    assert ["note" in i["user"] for i in logged(world)] == [True, False]


def test_only_what_kafka_did_not_acknowledge_is_sent_again_in_its_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [world.rank({}, [1], log_impression=True)["request_id"] for _ in range(3)]

    def first_alone(messages: Any) -> Any:
        world.sink.messages += messages[:1]
        raise SinkUnavailable("the connection broke", [True, False, False])

    with monkeypatch.context() as patch:
        patch.setattr(world.sink, "send", first_alone)
        assert not world.impressions.send_some()
    assert sent(world) == 1
    assert world.impressions.send_some()
    assert [i["request_id"] for i in logged(world)] == ids
    assert sent(world) == 3


def test_what_kafka_never_takes_is_dropped_and_counted(world: World) -> None:
    world.sink.limit = 1000
    world.rank({"note": "x" * 1000}, [1], log_impression=True)
    world.rank({}, [1], log_impression=True)
    assert world.impressions.send_some()
    assert (dropped(world, "too_large"), sent(world), len(world.sink.messages)) == (1, 1, 1)


def test_what_no_joiner_could_read_is_dropped_and_counted(world: World) -> None:
    world.rank({}, [{"id": 1, "weight": "heavy"}], log_impression=True)
    assert world.impressions.send_some()
    assert (dropped(world, "schema"), world.sink.messages) == (1, [])


def test_what_waits_at_the_end_is_sent_or_counted(world: World) -> None:
    world.impressions.start()
    world.rank({}, [1], log_impression=True)
    world.impressions.close()
    assert (sent(world), dropped(world, "stopped")) == (1, 0)
    other = World()
    other.sink.down = True
    other.impressions.start()
    other.rank({}, [1], log_impression=True)
    other.impressions.close()
    assert (sent(other), dropped(other, "stopped")) == (0, 1)


def test_the_deviation_of_a_score_shrinks_with_what_was_learned() -> None:
    world = World(define(wide="gaussian"))
    for _ in range(20):
        world.learn(example("ann", ("a", 1), ("b", 0)))
    answer = world.rank({"id": "ann"}, ["a", "b", "new"], std=True)
    found = {item["id"]: item for item in answer["items"]}
    scorer = world.trainer.learner.scorer
    items = [{"id": i} for i in ("a", "b", "new")]
    columns = request_to_columns(NOW_MS, {"id": "ann"}, {}, items, scorer.featurizer.sources)
    scores = scorer.score(scorer.featurizer.featurize(columns))
    assert scores.variances is not None
    for place, item in enumerate(items):
        p = found[item["id"]]["score"]
        assert found[item["id"]]["std"] == pytest.approx(p * (1 - p) * np.sqrt(scores.variances[place, 0]))
    in_log_odds = {i: item["std"] / (item["score"] * (1 - item["score"])) for i, item in found.items()}
    assert in_log_odds["new"] > in_log_odds["a"] > 0
    assert all("std" not in item for item in world.rank({"id": "ann"}, ["a"])["items"])
