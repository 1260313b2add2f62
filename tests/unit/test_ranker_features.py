"""Features stored once: what requests that send ids alone are scored with."""

from typing import Any

import orjson
import pytest

from services.ranker.metrics import RankerMetrics
from services.ranker.stored_features import FeatureLimits, StoredFeatures
from tests.ranking import NOW_MS, FakeHashes, World, example
from trainer.example import request_to_columns


@pytest.fixture
def world() -> World:
    world = World()
    for _ in range(10):
        world.learn(
            example("ann", ("a", 1), genre=["x"], seconds=5), example("bob", ("b", 0), genre=["y"], seconds=5000)
        )
    return world


def store(world: World, path: str, features: dict[str, Any]) -> None:
    answer = world.put(path, features)
    assert (answer.status_code, answer.content) == (204, b"")


def scores(world: World, *candidates: Any, user: Any = "ann") -> list[float]:
    found = {i["id"]: i["score"] for i in world.rank({"id": user}, list(candidates))["items"]}
    return [found[c["id"] if isinstance(c, dict) else c] for c in candidates]


def truth(world: World, *items: dict[str, Any]) -> list[float]:
    """What the trainer's own model says of candidates that carry their features."""
    scorer = world.trainer.learner.scorer
    columns = request_to_columns(NOW_MS, {"id": "ann"}, {}, items, scorer.featurizer.sources)
    found: list[float] = scorer.probabilities(scorer.featurizer.featurize(columns))[:, 0].tolist()
    return found


def test_ids_alone_score_as_if_the_stored_features_were_sent(world: World) -> None:
    store(world, "/v1/items/a", {"genre": ["x"], "seconds": 5})
    store(world, "/v1/items/7", {"genre": ["y"], "seconds": 5000})
    expected = truth(world, {"id": "a", "genre": ["x"], "seconds": 5}, {"id": 7, "genre": ["y"], "seconds": 5000})
    assert scores(world, "a", 7) == pytest.approx(expected, abs=1e-9)
    assert expected != pytest.approx(truth(world, {"id": "a"}, {"id": 7}), abs=1e-4)


def test_features_of_the_request_win_one_by_one(world: World) -> None:
    store(world, "/v1/items/a", {"genre": ["x"], "seconds": 5})
    (found,) = scores(world, {"id": "a", "seconds": 700})
    assert found == pytest.approx(truth(world, {"id": "a", "genre": ["x"], "seconds": 700})[0], abs=1e-9)


def test_explanations_and_logged_impressions_have_them_too(world: World) -> None:
    store(world, "/v1/users/ann", {"country": "US"})
    store(world, "/v1/items/a", {"genre": ["x"], "seconds": 5})
    world.rank({"id": "ann", "age": 4}, ["a", "b"], log_impression=True)
    assert world.impressions.send_some()
    shown = orjson.loads(world.sink.messages[0].value)
    assert shown["user"] == {"country": "US", "id": "ann", "age": 4}
    assert {i["id"]: i.get("genre") for i in shown["items"]} == {"a": ["x"], "b": None}
    fields = [
        world.post("/v1/explain", {"user": {"id": "ann"}, "item": item}).json()["fields"]
        for item in ("a", {"id": "a", "genre": ["x"], "seconds": 5}, {"id": "a", "genre": [], "seconds": 5})
    ]
    assert fields[0] == fields[1] != fields[2]


def test_impressions_and_examples_that_are_posted_get_them_and_actions_do_not(world: World) -> None:
    store(world, "/v1/users/ann", {"country": "US"})
    store(world, "/v1/items/1", {"genre": ["x"]})
    shown = {"request_id": "r", "ts": NOW_MS, "user": {"id": "ann"}, "items": [{"id": "1"}, {"id": 2}]}
    done = {"request_id": "r", "ts": NOW_MS, "item_id": 1, "action": "click"}
    lists = {"impressions": [shown, {}], "actions": [done], "examples": [example("bob", (1, 1))]}
    assert world.post("/v1/events", lists).json()["accepted"] == 3
    found = [orjson.loads(m.value) for m in world.sink.messages]
    assert found == [
        {**shown, "user": {"country": "US", "id": "ann"}, "items": [{"genre": ["x"], "id": "1"}, {"id": 2}]},
        done,
        example("bob", (1, 1), genre=["x"]),
    ]


def test_an_empty_object_removes_what_was_stored(world: World) -> None:
    bare = scores(world, "a")
    store(world, "/v1/items/a", {"genre": ["x"]})
    assert scores(world, "a") != bare
    store(world, "/v1/items/a", {})
    assert scores(world, "a") == bare
    assert not any(world.redis.hashes.values())


def test_one_id_has_one_entry_however_it_is_written(world: World) -> None:
    store(world, "/v1/items/7", {"genre": ["x"]})
    assert len(set(scores(world, 7))) == 1
    assert scores(world, 7) == scores(world, "7") == scores(world, {"id": 7, "genre": ["x"]})
    store(world, "/v1/items/a%2Fb%20%C3%A9", {"genre": ["x"]})
    assert scores(world, "a/b é") == scores(world, {"id": "a/b é", "genre": ["x"]})


@pytest.mark.parametrize(
    ("path", "features", "status", "text"),
    [
        ("/v1/items/a", {"genre": 1.5}, 422, "`genre`"),
        ("/v1/items/a", {"id": "b"}, 422, "`id` must be that of the path, 'a'"),
        ("/v1/items/a", {"id": 1.0}, 422, "`id`"),
        ("/v1/items/", {"genre": "x"}, 422, "must end with an id"),
        ("/v1/users/ann", {"note": "x" * 200}, 413, "ranker.features_bytes"),
        ("/v1/users/ann", [1], 422, "must be a JSON object"),
    ],
)
def test_what_cannot_be_stored_is_named(
    world: World, path: str, features: dict[str, Any], status: int, text: str
) -> None:
    answer = world.put(path, features)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert text in answer.json()["detail"]
    assert not world.redis.hashes


def test_the_id_in_the_body_may_stand_beside_that_of_the_path(world: World) -> None:
    store(world, "/v1/items/7", {"id": 7, "genre": ["x"]})
    (stored,) = world.redis.hashes.values()
    assert stored == {b"7": b'{"genre":["x"]}'}


def test_the_number_of_stored_ids_is_bounded_and_known_ones_may_change(world: World) -> None:
    answers = {i: world.put(f"/v1/items/{i}", {"genre": ["x"]}) for i in range(200)}
    refused = {i for i, answer in answers.items() if answer.status_code == 507}
    assert "ranker.features_count" in answers[max(refused)].json()["detail"]
    stored = sum(map(len, world.redis.hashes.values()))
    assert stored == 200 - len(refused) <= 32
    store(world, f"/v1/items/{min(set(answers) - refused)}", {"genre": ["y"]})


def test_what_another_ranker_stored_is_seen_once_it_is_time_to_look_again(world: World) -> None:
    store(world, "/v1/items/z", {"genre": ["x"]})
    bare = scores(world, "a")
    world.redis.hashes = {f"p:features:items:{n:x}": {b"a": b'{"genre":["x"]}'} for n in range(16)}
    assert scores(world, "a") == bare
    world.now_s += 5.1
    assert scores(world, "a") == scores(world, {"id": "a", "genre": ["x"]}) != bare


def test_where_nothing_is_stored_requests_do_not_ask_again_and_again(world: World) -> None:
    world.redis.round_trips = 0
    for _ in range(20):
        scores(world, *range(50))
    assert world.redis.round_trips <= 2
    world.now_s += 5.1
    scores(world, 1)
    assert world.redis.round_trips <= 4


def test_what_is_known_is_not_read_again_while_it_is_fresh(world: World) -> None:
    store(world, "/v1/users/ann", {"country": "US"})
    store(world, "/v1/items/1", {"genre": ["x"]})
    scores(world, 1, 2, 3)
    world.redis.round_trips = 0
    scores(world, 1, 2, 3)
    assert world.redis.round_trips == 0


def test_without_redis_answers_go_on_with_what_is_known(world: World) -> None:
    store(world, "/v1/items/a", {"genre": ["x"]})
    known = scores(world, "a")
    world.redis.down = True
    world.now_s += 60
    world.redis.round_trips = 0
    assert scores(world, "a") == known
    assert scores(world, "a", "b")[0] == known[0]
    assert world.redis.round_trips == 1
    assert world.metrics.registry.get_sample_value("dolmen_feature_reads_failed_total") == 1
    answer = world.put("/v1/items/b", {"genre": ["x"]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    world.redis.down = False
    world.now_s += 1.1
    assert scores(world, "a") == known


def test_what_one_process_keeps_is_bounded() -> None:
    hashes = FakeHashes()
    features = StoredFeatures(hashes, "p", FeatureLimits(cache_bytes=30_000), RankerMetrics(), lambda: 0.0)
    features.put("items", "0", {"genre": ["x"]})
    items = [{"id": i} for i in range(1000)]
    features.read(features.unknown({}, items))
    known = len(items) - len(features.unknown({}, items))
    assert 50 <= known <= 100
