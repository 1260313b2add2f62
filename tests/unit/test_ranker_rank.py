"""Ranking over an in-memory shard: scores, order, identity of values, and what the answer says."""

import asyncio
import re
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ranker.scoring import Scoring
from tests.ranking import NOW_MS, World, define, example
from trainer.example import request_to_columns


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    for round_ in range(20):
        world.learn(
            example("ann", ("a", 1), (7, 0), ("c", round_ % 2), genre=["x", "y"], seconds=30 * round_),
            example(3, ("a", 0), ("b", 1), genre="x"),
        )
    return world


def truth(world: World, body: dict[str, Any]) -> Any:
    """What the trainer's own model says: float64[B, T]."""
    scorer = world.trainer.learner.scorer
    items = [c if isinstance(c, dict) else {"id": c} for c in body["candidates"]]
    columns = request_to_columns(NOW_MS, body["user"], body.get("context", {}), items, scorer.featurizer.sources)
    return scorer.probabilities(scorer.featurizer.featurize(columns))


CANDIDATES = ["a", 7, {"id": "b", "genre": ["x", "new"]}, {"id": "c", "seconds": 12.5}, "nobody saw this"]


def test_a_ranking_says_who_scored_and_sorts_by_score(world: World) -> None:
    answer = world.rank({"id": "ann"}, CANDIDATES)
    assert re.fullmatch(r"[0-9a-f]{32}", answer["request_id"])
    assert answer["model"] == {"name": "default", "commit": 20, "age_ms": 3}
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert {item["id"] for item in answer["items"]} == {"a", 7, "b", "c", "nobody saw this"}
    assert all(set(item) == {"id", "score", "scores"} for item in answer["items"])
    assert all(item["score"] == item["scores"]["click"] for item in answer["items"])
    assert world.rank({"id": "ann"}, CANDIDATES)["request_id"] != answer["request_id"]


def test_the_score_is_that_of_the_configured_task() -> None:
    world = World(define(score="like"))
    world.learn(example("ann", ("a", 1), ("b", 0)))
    answer = world.rank({"id": "ann"}, ["a", "b"])
    assert all(item["score"] == item["scores"]["like"] for item in answer["items"])
    assert set(answer["items"][0]["scores"]) == {"click", "like"}


def test_a_formula_makes_the_score_of_all_tasks_and_sorts_by_it() -> None:
    world = World(define(score="0.25 * like - click * (1 - like)", name="residual", wide="gaussian"))
    for _ in range(5):
        world.learn(example("ann", ("a", 1), ("b", 0), ("c", 1)))
    answer = world.post("/v1/rank", {"user": {"id": "ann"}, "candidates": ["a", "b", "c"], "std": True}).json()
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["items"][0]["id"] == "b"
    for item in answer["items"]:
        click, like = item["scores"]["click"], item["scores"]["like"]
        assert item["score"] == pytest.approx(0.25 * like - click * (1 - like))
        assert item["std"] > 0
    assert world.get("/v1/model").json()["score"] == "0.25 * like - click * (1 - like)"


values = st.one_of(st.integers(0, 9), st.sampled_from(["ann", "a", "b", "x", "042", "7", ""]), st.booleans())
candidates = st.lists(
    st.one_of(
        st.integers(-3, 9),
        st.sampled_from(["a", "b", "c"]),
        st.fixed_dictionaries(
            {"id": values},
            optional={
                "genre": st.one_of(values, st.lists(values, max_size=3)),
                "seconds": st.one_of(st.none(), st.integers(-5, 5000), st.floats(-1e3, 1e30)),
                "unknown": st.none(),
            },
        ),
    ),
    min_size=1,
    max_size=8,
)
parts = st.fixed_dictionaries({}, optional={"id": values, "device": values})


@settings(max_examples=60, deadline=None)
@given(user=parts, context=parts, asked=candidates)
def test_scores_are_those_of_the_trainers_model(
    world: World, user: dict[str, Any], context: dict[str, Any], asked: list[Any]
) -> None:
    body = {"user": user, "context": context, "candidates": asked}
    expected = truth(world, body)
    items = world.rank(**body)["items"]
    order = sorted(range(len(asked)), key=lambda i: (-expected[i, 0], i))
    got = np.array([[item["scores"]["click"], item["scores"]["like"]] for item in items])
    np.testing.assert_allclose(got, expected[order], atol=1e-6)


def test_two_unknown_visitors_and_items_score_alike(world: World) -> None:
    one = world.rank({"id": "stranger 1"}, ["new 1", "new 2"])["items"]
    two = world.rank({"id": "stranger 2"}, [991, 992])["items"]
    nobody = world.rank({}, ["new 3"])["items"]
    assert len({item["score"] for item in one + two + nobody}) == 1


def test_equal_scores_keep_the_order_of_the_request(world: World) -> None:
    fresh = ["z1", "z9", "z4", "z2", "z7"]
    ids = [item["id"] for item in world.rank({"id": "ann"}, [*fresh, "a"])["items"]]
    assert [i for i in ids if i != "a"] == fresh


def test_k_cuts_the_tail_and_may_exceed_the_candidates(world: World) -> None:
    everything = [item["id"] for item in world.rank({"id": 3}, CANDIDATES)["items"]]
    assert [item["id"] for item in world.rank({"id": 3}, CANDIDATES, k=2)["items"]] == everything[:2]
    assert [item["id"] for item in world.rank({"id": 3}, CANDIDATES, k=999)["items"]] == everything


def test_an_integer_and_its_canonical_decimal_are_one_id_and_come_back_as_sent(world: World) -> None:
    items = world.rank({"id": "ann"}, [7, "7", "07"])["items"]
    by_id = {repr(item["id"]): item["score"] for item in items}
    assert by_id["7"] == by_id["'7'"] != by_id["'07'"]


def test_a_thousand_candidates_are_ranked(world: World) -> None:
    items = world.rank({"id": "ann"}, list(range(1000)), log_impression=False)["items"]
    assert sorted(item["id"] for item in items) == list(range(1000))


def test_a_commit_changes_the_next_ranking() -> None:
    world = World()
    for _ in range(10):
        world.learn(example("ann", ("a", 1), ("b", 0)))
    before = world.rank({"id": "ann"}, ["a", "b"])
    for _ in range(40):
        world.learn(example("ann", ("a", 0), ("b", 1)))
    after = world.rank({"id": "ann"}, ["a", "b"])
    assert [item["id"] for item in before["items"]] == ["a", "b"]
    assert [item["id"] for item in after["items"]] == ["b", "a"]
    assert (before["model"]["commit"], after["model"]["commit"]) == (10, 50)


def test_a_changed_definition_takes_over_with_its_snapshot() -> None:
    world = World(define(tasks=["click", "like"]))
    other = World(define(tasks=["like"], hidden=[3]), bootstrapped=False).trainer
    other.learn([example("ann", ("a", 1))])
    world.replica.restart(other.snapshot())
    assert set(world.rank({"id": "ann"}, ["a"])["items"][0]["scores"]) == {"like"}
    assert world.get("/v1/model").json()["tasks"] == ["like"]


def test_a_ranking_waits_for_a_commit_off_the_event_loop(world: World) -> None:
    async def talk(client: httpx.AsyncClient) -> tuple[bool, int]:
        ranking = asyncio.create_task(client.post("/v1/rank", json={"user": {}, "candidates": [1]}))
        alive = await client.get("/healthz")
        await asyncio.sleep(0)
        waited = not ranking.done()
        assert alive.status_code == 200
        world.replica.lock.release()
        return waited, (await ranking).status_code

    holder = threading.Thread(target=world.replica.lock.acquire)
    holder.start()
    holder.join()
    assert world.run(talk) == (True, 200)


def test_a_replica_that_starts_anew_between_featurizing_and_scoring_is_noticed() -> None:
    world = World()
    model = world.follower.model
    assert model is not None
    batch = model.featurize(NOW_MS, {}, {}, [{"id": 1}])
    scoring = Scoring(world.replica, world.follower)
    assert asyncio.run(scoring.held(model, lambda: model.scorer.probabilities(batch))) is not None
    world.replica.restart(world.trainer.snapshot())
    assert asyncio.run(scoring.held(model, lambda: model.scorer.probabilities(batch))) is None
    scoring.close()
