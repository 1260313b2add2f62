"""Events by HTTP: checked one by one, and handed to Kafka."""

from typing import Any

import orjson
import pytest

from services.ranker.intake import key_of
from tests.ranking import NOW_MS, World, example


@pytest.fixture
def world() -> World:
    return World()


def post(world: World, **lists: Any) -> tuple[int, dict[str, Any]]:
    answer = world.post("/v1/events", lists)
    return answer.status_code, answer.json()


def test_valid_examples_reach_kafka_as_they_were_sent(world: World) -> None:
    sent = [{**example("ann", ("a", 1)), "extra": {"x": [1, None]}}, example(42, (7, 0), ("b", 1))]
    assert post(world, examples=sent) == (202, {"accepted": 2, "rejected": []})
    assert [orjson.loads(m.value) for m in world.sink.messages] == sent
    assert [m.key for m in world.sink.messages] == [b"ann", b"42"]


def test_a_visitor_without_an_id_has_no_key() -> None:
    assert key_of({"user": {}}) is None
    assert key_of({"user": {"id": [1]}}) is None
    assert key_of({"user": {"id": True}}) == key_of({"user": {"id": 1}}) == b"1"
    assert key_of({"user": {"id": "Zoë"}}) == "Zoë".encode()


FAULTS: list[tuple[Any, str]] = [
    (3, "must be a JSON object"),
    ({"user": {}}, "`ts` is missing"),
    (example("ann", ("a", 2)), "`items[0].labels.click`"),
    (example(1.5, ("a", 1)), "`user.id`"),
    (example("ann", ("a", 1), (None, 1)), "`items[1].id`"),
    (example("ann", ("a", 1), ("b", 1), seconds="long"), "`items[0].seconds`"),
    (example("ann", ("a", 1), ts=NOW_MS + 3_600_001), "`ts`"),
    ({**example("ann", ("a", 1)), "context": {"device": 0.5}}, "`context.device`"),
]


def test_each_faulty_example_is_answered_and_the_others_pass(world: World) -> None:
    good = example("ann", ("a", 1))
    mixed = [item for fault, _ in FAULTS for item in (good, fault)]
    status, answer = post(world, examples=mixed)
    assert (status, answer["accepted"]) == (202, len(FAULTS))
    assert [(r["list"], r["index"]) for r in answer["rejected"]] == [
        ("examples", 2 * i + 1) for i in range(len(FAULTS))
    ]
    for rejected, (_, text) in zip(answer["rejected"], FAULTS, strict=True):
        assert text in rejected["detail"]
    assert [orjson.loads(m.value) for m in world.sink.messages] == [good] * len(FAULTS)


def test_nothing_valid_is_a_problem_that_lists_every_fault(world: World) -> None:
    status, answer = post(world, examples=[fault for fault, _ in FAULTS])
    assert (status, answer["accepted"], len(answer["rejected"])) == (422, 0, len(FAULTS))
    assert not world.sink.messages


def impression(request_id: str, *items: Any, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "ts": NOW_MS,
        "user": {"id": "ann"},
        "items": [{"id": i} for i in items],
    } | changes


def action(request_id: str, item_id: Any, **changes: Any) -> dict[str, Any]:
    return {"request_id": request_id, "ts": NOW_MS, "item_id": item_id, "action": "click"} | changes


def test_impressions_and_actions_reach_their_topics_keyed_by_request(world: World) -> None:
    shown, done, labelled = impression("r1", "a", 7), action("r1", 7, value=2.5), example("ann", ("a", 1))
    assert post(world, examples=[labelled], actions=[done], impressions=[shown])[1] == {"accepted": 3, "rejected": []}
    assert [(m.topic, m.key, orjson.loads(m.value)) for m in world.sink.messages] == [
        ("dolmen.impressions", b"r1", shown),
        ("dolmen.actions", b"r1", done),
        ("dolmen.examples", b"ann", labelled),
    ]


def test_each_faulty_impression_and_action_is_answered_in_its_list(world: World) -> None:
    faulty = {
        "impressions": [
            impression("r1", "a"),
            impression("", "a"),
            impression("r2", "a", "a"),
            impression("r3", "a", user={"id": 1.5}),
            impression("r4", "a", context={"device": 0.5}),
            impression("r5", "a", items=[{"id": "a"}, {"id": "b", "seconds": "long"}]),
            impression("r6", "a", ts=NOW_MS + 3_600_001),
        ],
        "actions": [7, action("r1", "a"), action("r1", "a", action=None), action("r1", None)],
    }
    status, answer = post(world, **faulty)
    assert (status, answer["accepted"]) == (202, 2)
    assert [(r["list"], r["index"], r["detail"].split(" ")[0].rstrip(":")) for r in answer["rejected"]] == [
        ("impressions", 1, "`request_id`"),
        ("impressions", 2, "`items[1].id`"),
        ("impressions", 3, "`user.id`"),
        ("impressions", 4, "`context.device`"),
        ("impressions", 5, "`items[1].seconds`"),
        ("impressions", 6, "`ts`"),
        ("actions", 0, "the"),
        ("actions", 2, "`action`"),
        ("actions", 3, "`item_id`"),
    ]
    assert [m.key for m in world.sink.messages] == [b"r1", b"r1"]


@pytest.mark.parametrize("lists", [{}, {"examples": []}, {"examples": [1] * 600, "actions": [1] * 401}, {"other": [1]}])
def test_one_to_a_thousand_events_in_all(world: World, lists: dict[str, Any]) -> None:
    status, answer = post(world, **lists)
    assert (status, "rejected" in answer) == (422, False)
    assert "1 to 1000" in answer["detail"]


@pytest.mark.parametrize("name", ["examples", "impressions", "actions"])
@pytest.mark.parametrize("value", [None, {}, "x", 1])
def test_a_list_that_is_none_is_named(world: World, name: str, value: Any) -> None:
    status, answer = post(world, **{name: value})
    assert (status, answer["errors"][0]["field"]) == (422, name)


def test_without_kafka_the_caller_is_told_to_try_again(world: World) -> None:
    world.sink.down = True
    answer = world.post("/v1/events", {"examples": [example("ann", ("a", 1)), 3]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["accepted"] == 0
    assert [r["index"] for r in answer.json()["rejected"]] == [0, 1]
    world.sink.down = False
    assert post(world, examples=[example("ann", ("a", 1))])[0] == 202


def test_what_kafka_never_takes_is_rejected_and_not_retried(world: World) -> None:
    world.sink.limit = 500
    large = {**example("ann", ("a", 1)), "note": "x" * 500}
    status, answer = post(world, examples=[large, example("ann", ("a", 1))])
    assert (status, answer["accepted"], answer["rejected"][0]["index"]) == (202, 1, 0)
    assert post(world, examples=[large])[0] == 422
