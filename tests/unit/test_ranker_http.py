"""The HTTP interface: problems, limits, state, metrics, the page."""

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedding_store.errors import BadBytes
from embedding_store.plan import TablePlan
from services.ranker.metrics import CountedHistogram
from tests.ranking import MAX_BODY_BYTES, NOW_MS, World, example


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.learn(example("ann", ("a", 1), ("b", 0)))
    return world


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    value: dict[str, Any] = answer.json()
    assert value["status"] == status
    assert set(value) >= {"type", "title", "status", "detail"}
    assert "Traceback" not in answer.text
    return value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user": {}}, "candidates"),
        ({"user": {}, "candidates": []}, "candidates"),
        ({"user": {}, "candidates": list(range(1001))}, "candidates"),
        ({"user": {}, "candidates": {"id": 1}}, "candidates"),
        ({"user": {}, "candidates": [1, 1.5]}, "candidates[1]"),
        ({"user": {}, "candidates": [None]}, "candidates[0]"),
        ({"user": {}, "candidates": [True]}, "candidates[0]"),
        ({"user": {}, "candidates": [[1]]}, "candidates[0]"),
        ({"user": {}, "candidates": [{}]}, "candidates[0].id"),
        ({"user": {}, "candidates": [1, {"id": None}]}, "candidates[1].id"),
        ({"user": {}, "candidates": [{"id": 1.0}]}, "candidates[0].id"),
        ({"user": {}, "candidates": [{"id": {"x": 1}}]}, "candidates[0].id"),
        ({"user": {}, "candidates": [1, 2, 3, {"id": 4, "genre": 1.5}]}, "candidates[3].genre"),
        ({"user": {}, "candidates": [1, {"id": 4, "genre": ["x", None]}]}, "candidates[1].genre"),
        ({"user": {}, "candidates": [{"id": 4, "seconds": "12"}]}, "candidates[0].seconds"),
        ({"user": {"id": 1.5}, "candidates": [1]}, "user.id"),
        ({"user": {"id": None}, "candidates": [1]}, "user.id"),
        ({"user": {}, "context": {"device": []}, "candidates": [1]}, "context.device"),
        ({"candidates": [1]}, "user"),
        ({"user": None, "candidates": [1]}, "user"),
        ({"user": "ann", "candidates": [1]}, "user"),
        ({"user": {}, "context": [], "candidates": [1]}, "context"),
        ({"user": {}, "context": None, "candidates": [1]}, "context"),
        ({"user": {}, "candidates": [1], "k": 0}, "k"),
        ({"user": {}, "candidates": [1], "k": 1.0}, "k"),
        ({"user": {}, "candidates": [1], "k": True}, "k"),
        ({"user": {}, "candidates": [1], "k": None}, "k"),
        ({"user": {}, "candidates": [1], "log_impression": 1}, "log_impression"),
        ({"user": {}, "candidates": [1], "std": "yes"}, "std"),
        ({"user": {}, "candidates": [1], "std": True}, "std"),
    ],
)
def test_a_bad_field_is_named(world: World, body: dict[str, Any], field: str) -> None:
    value = problem(world.post("/v1/rank", body), 422)
    assert value["errors"][0]["field"] == field
    assert value["detail"] == f"`{field}` {value['errors'][0]['detail']}"


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/explain", "/v1/events"])
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'"x"', b"\xff", b'{"a": NaN}', b"[" * 5000])
def test_a_body_that_is_no_json_object_is_a_problem(world: World, path: str, body: bytes) -> None:
    problem(world.post(path, body), 422)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_must_be_sent_as_json_so_that_no_foreign_page_can_post(world: World, kind: str) -> None:
    body = {"user": {}, "candidates": [1]}
    problem(world.post("/v1/rank", body, headers={"content-type": kind}), 415)
    for good in ("application/json; charset=utf-8", "Application/JSON", "application/ld+json"):
        assert world.post("/v1/rank", body, headers={"content-type": good}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/events"])
def test_a_large_body_is_refused_before_it_is_read(world: World, path: str) -> None:
    value = problem(world.post(path, b" " * (MAX_BODY_BYTES + 1)), 413)
    assert "ranker.max_body_bytes" in value["detail"]
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        while True:
            sent += 1024
            yield b" " * 1024

    headers = {"content-type": "application/json"}
    problem(world.run(lambda client: client.post(path, content=chunks(), headers=headers)), 413)
    assert sent <= MAX_BODY_BYTES + 2048
    body = b'{"user": {}, "candidates": [1]}'
    assert world.post("/v1/rank", body + b" " * (MAX_BODY_BYTES - len(body))).status_code == 200


def test_unknown_paths_and_methods_are_problems(world: World) -> None:
    problem(world.get("/v2/rank"), 404)
    answer = world.get("/v1/rank")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_a_failure_inside_tells_the_caller_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(world.service, "rank", broken)
    assert "secret" not in problem(world.post("/v1/rank", {"user": {}, "candidates": [1]}), 500)["detail"]


def test_before_the_first_bootstrap_everything_that_needs_a_model_asks_to_retry() -> None:
    world = World(bootstrapped=False)
    answers = [
        world.post("/v1/rank", {"user": {}, "candidates": [1]}),
        world.post("/v1/events", {"examples": [example("ann", ("a", 1))]}),
        world.put("/v1/items/1", {"genre": "x"}),
        world.get("/v1/model"),
        world.get("/readyz"),
    ]
    for answer in answers:
        assert "the store is empty" in problem(answer, 503)["detail"]
        assert answer.headers["retry-after"] == "1"
    assert world.get("/healthz").status_code == 200
    assert world.get("/metrics").status_code == 200
    assert world.get("/").status_code == 200


def test_readiness_follows_the_store_and_the_lag() -> None:
    world = World()
    assert world.get("/readyz").json() == {"status": "ready", "commit": 0, "age_ms": 3}
    world.replica.age_ms = 5_000.0
    assert "ranker.ready_lag" in problem(world.get("/readyz"), 503)["detail"]
    world.replica.age_ms, world.replica.error = 10.0, "Redis did not answer: refused"
    assert problem(world.get("/readyz"), 503)["detail"] == "Redis did not answer: refused"
    assert world.rank({}, [1])["model"]["age_ms"] == 10
    world.replica.error = None
    assert world.get("/readyz").status_code == 200


def test_the_model_is_described(world: World) -> None:
    value = world.get("/v1/model").json()
    assert (value["name"], value["commit"], value["age_ms"]) == ("default", 1, 3)
    assert (value["tasks"], value["score"], value["plan"]) == (["click", "like"], "click", None)
    assert {t["name"]: t["rows"] for t in value["tables"]} == {
        "user": 1, "item": 2, "genre": 0, "device": 0, "hour": 1, "both": 2
    }  # fmt: skip
    assert [f["name"] for f in value["features"]] == [f.name for f in world.trainer.definition.features]
    assert value["offsets"] == {"dolmen.examples": {"topic_id": None, "offsets": {"0": 1}}}


def test_a_dimension_plan_in_force_is_described() -> None:
    world = World()
    model = world.follower.model
    assert model is not None
    model.scorer.shard.set_plan("item", TablePlan(bounds=(5,), kept=((0, 1), (0, 1, 2, 3))))
    assert world.get("/v1/model").json()["plan"] == {"item": {"bounds": [5], "kept": [[0, 1], [0, 1, 2, 3]]}}


def samples(world: World) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(world.get("/metrics").text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_metrics_tell_requests_candidates_and_the_replica() -> None:
    world = World()
    world.learn(example("ann", ("a", 1), ("b", 0)))
    world.rank({}, [1, 2, 3])
    world.post("/v1/rank", {})
    world.replica.lag_commits = 4
    found = samples(world)
    assert found["dolmen_rank_requests_total{status=200}"] == 1
    assert found["dolmen_rank_requests_total{status=422}"] == 1
    assert (found["dolmen_rank_seconds_count"], found["dolmen_rank_candidates_sum"]) == (1, 3)
    assert (found["dolmen_replica_lag_commits"], found["dolmen_replica_commit"]) == (4, 1)
    assert (found["dolmen_replica_miss_total"], found["dolmen_replica_examples_total"]) == (0, 2)


def test_freshness_counts_each_example_of_a_tailed_commit_and_none_of_a_bootstrap() -> None:
    world = World()
    world.learn(example("ann", ("a", 1)), appended=[(NOW_MS - 150, 5), (NOW_MS - 1_400, 2), (NOW_MS + 9, 1)])
    world.replica.restart(world.trainer.snapshot())
    found = samples(world)
    edges = {edge: found[f"dolmen_freshness_seconds_bucket{{le={edge}}}"] for edge in ("0.1", "0.2", "1.0", "1.5")}
    assert edges == {"0.1": 1, "0.2": 6, "1.0": 6, "1.5": 8}
    assert found["dolmen_freshness_seconds_count"] == found["dolmen_freshness_seconds_bucket{le=+Inf}"] == 8
    assert found["dolmen_freshness_seconds_sum"] == pytest.approx(5 * 0.15 + 2 * 1.4)
    for edge in ("0.1", "0.2", "0.4", "0.6", "1.0", "1.5", "2.0", "5.0"):
        assert f"dolmen_freshness_seconds_bucket{{le={edge}}}" in found


def test_a_value_on_a_buckets_edge_belongs_to_it() -> None:
    histogram = CountedHistogram("h", "text", [1.0, 2.0])
    histogram.observe([1.0, 2.0, 2.5], [3, 4, 5])
    values = {s.labels["le"]: s.value for s in histogram.collect()[0].samples if s.name == "h_bucket"}
    assert values == {"1.0": 3, "2.0": 7, "+Inf": 12}


def test_a_definition_of_another_version_is_named() -> None:
    world = World(bootstrapped=False)
    snapshot = world.trainer.snapshot()
    snapshot.definition = b'{"tables": [], "novelty": 1}'
    with pytest.raises(BadBytes, match="definition"):
        world.replica.restart(snapshot)
    assert world.follower.model is None


def test_the_page_needs_nothing_from_elsewhere(world: World) -> None:
    answer = world.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text


def test_the_interface_is_described(world: World) -> None:
    paths = world.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/v1/rank", "/v1/explain", "/v1/events", "/v1/users/{id}", "/v1/items/{id}", "/v1/model"),
        *("/healthz", "/readyz", "/metrics"),
    }
    assert "202" in paths["/v1/events"]["post"]["responses"]
    assert world.get("/docs").status_code == 200
