"""Explanations: complete for every model, exact where parts add up, by hand where it can be."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from embedding_store.shard import Shard
from services.settings import Settings
from tests.definitions import FEATURES, TASKS, batch_of, columns_of, message, random_batch, small_definition
from tests.ranking import World, define, example
from tests.unit.test_models import MODELS, SHAPES, inputs, trained
from trainer.explain import Names, Question, ask, precise
from trainer.learner import Learner
from trainer.models import build_model
from trainer.models.inputs import Inputs, Shape
from trainer.settings import ModelSettings

FIELDS, NUMBERS = ("user", "video", "tab", "hour", "music"), ("age", "plays", "length")


def question(name: str, shape: Shape, task: int = 0, **more: torch.Tensor) -> Question:
    """The first of some random inputs against the first of some others."""
    given, other = (Inputs(*(None if p is None else p[:1] for p in inputs(shape, seed))) for seed in (1, 2))
    mask = None if given.mask is None else torch.tensor([[True, True, True, False, False, False]])
    given, other = given._replace(mask=mask), other._replace(mask=mask, ages=given.ages)
    model = precise(trained(name, shape))
    return Question(model, given, other, Names(FIELDS, NUMBERS[: shape.numbers], "watched"), task, **more)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bias_and_fields_add_up_to_the_logit(name: str, shape: Shape) -> None:
    asked = question(name, shape, task=shape.tasks - 1)
    found = asked.answer()
    logit = float(asked.model(asked.inputs)[0, shape.tasks - 1])
    assert found.logit == pytest.approx(logit, rel=1e-9)
    assert found.bias + math.fsum(found.fields.values()) == pytest.approx(logit, abs=1e-6)
    expected = {*FIELDS, *NUMBERS[: shape.numbers], *(["watched"] if shape.sequence_length else [])}
    assert set(found.fields) == expected
    assert abs(found.missed) < 1e-2  # of logits of about 10, with every weight as large as it can get


@pytest.mark.parametrize("name", MODELS)
def test_the_bias_is_the_models_and_what_its_network_says_of_the_baseline(name: str) -> None:
    asked = question(name, SHAPES["three tasks"], task=1)
    expected = float(asked.model.bias[1] + asked.model.deep(asked.baseline)[0, 1])
    assert asked.answer().bias == pytest.approx(expected, abs=2e-3)


def test_pairs_are_shared_out_as_by_hand() -> None:
    # f = w1 + w2 + v1 v2 from v = (1, 2) to (3, 5): the first adds 2 (2 + 5) / 2 = 7, the second 3 (1 + 3) / 2 = 6.
    shape = Shape(fields=2, dim=1, numbers=0, tasks=1, hidden=())
    definition = small_definition().model_copy(update={"model": ModelSettings(name="fm")})
    none = torch.zeros(1, 0)
    given = Inputs(torch.tensor([[0.5, -0.25]]), torch.tensor([[[3.0], [5.0]]]), none)
    cold = Inputs(torch.tensor([[9.0, 9.0]]), torch.tensor([[[1.0], [2.0]]]), none)
    found = Question(build_model(definition, shape).double(), given, cold, Names(("a", "b"), ()), 0).answer()
    assert found.fields == pytest.approx({"a": 7.5, "b": 5.75})
    assert (found.bias, found.logit) == pytest.approx((2.0, 15.25))


def test_gaussian_means_count_by_their_scale_and_the_rest_of_the_wide_logit_is_bias() -> None:
    shape = dataclasses.replace(SHAPES["gaussian"], tasks=1, dim=0, numbers=0)
    definition = small_definition().model_copy(update={"model": ModelSettings(name="residual", hidden=(4,))})
    means, bias, scale = torch.tensor([[0.4, -0.2, 0.1, 0.0, 1.0]]), -0.3, 0.8
    given = Inputs(
        means, torch.zeros(1, 5, 0), torch.zeros(1, 0), scale * (means.sum(1, keepdim=True) + bias), torch.rand(1, 5)
    )
    cold = given._replace(linear=torch.zeros(1, 5), wide=torch.tensor([[0.7 * bias]]), confidence=torch.zeros(1, 5))
    fresh = build_model(definition, shape).double()
    found = Question(fresh, given, cold, Names(FIELDS, ()), 0, scale * means[:, :, None], torch.zeros(1, 5, 1)).answer()
    assert list(found.fields.values()) == pytest.approx([0.32, -0.16, 0.08, 0.0, 0.8])
    assert found.bias == pytest.approx(-0.24)


@pytest.mark.parametrize("shape", ["gaussian", "all of it"])
def test_what_the_network_makes_of_a_wide_logit_goes_to_the_fields_whose_means_made_it(shape: str) -> None:
    tasks = SHAPES[shape].tasks
    random = torch.Generator().manual_seed(4)
    means, cold = torch.randn(2, 1, 5, tasks, generator=random, dtype=torch.float64)
    cold[0, 3] = means[0, 3]  # the field's share of the wide logits stays as it was
    asked = question("residual", SHAPES[shape], task=1, means=means, baseline_means=cold)
    same = {name: getattr(asked.inputs, name).clone() for name in ("linear", "confidence")}
    for name, part in same.items():
        part[0, 3] = getattr(asked.baseline, name)[0, 3]
    found = dataclasses.replace(asked, inputs=asked.inputs._replace(**same)).answer()
    assert found.fields["hour"] == pytest.approx(float(means[0, 3, 1]), abs=1e-9)
    assert found.fields["video"] != pytest.approx(float(means[0, 1, 1]), abs=1e-3)


def test_each_task_has_the_means_of_its_own_weights() -> None:
    definition = Settings(
        features=[feature.model_dump(exclude_defaults=True) for feature in FEATURES],
        tasks=[{"name": name} for name in TASKS],
        model={"name": "residual", "wide": "gaussian", "hidden": [4]},
    ).definition()
    learner = Learner(definition, Shard(definition.tables, definition.seed))
    for seed in range(10):
        learner.score_and_learn(random_batch(definition, seed))
    learner.scorer.weights[:] = 0.0  # nothing but the wide part
    one = batch_of(definition, [message(np.random.default_rng(3), 1)])
    embedded = learner.scorer.embedder.embed(one)
    bias = learner.scorer.embedder.bias
    assert embedded.means is not None
    assert embedded.moments is not None
    assert bias is not None
    for task in (0, 1):
        found = ask(learner.scorer, one, task).answer()
        shrink = math.sqrt(1 + math.pi / 8 * embedded.moments[0, task, 1])
        names = [field.name for field in learner.scorer.featurizer.fields]
        expected = dict(zip(names, (embedded.means[0, :, task] / shrink).tolist(), strict=True))
        assert {name: found.fields[name] for name in names} == pytest.approx(expected, abs=1e-7)
        assert found.bias == pytest.approx(bias[task, 0] / shrink, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "residual"])  # that looks at linear weights too
def test_a_value_that_is_as_its_baseline_adds_its_linear_weight_alone(name: str) -> None:
    asked = question(name, SHAPES["sequence"])
    vectors, numbers = asked.inputs.vectors.clone(), asked.inputs.numbers.clone()
    vectors[0, 1] = asked.baseline.vectors[0, 1]
    numbers[0, 0] = asked.baseline.numbers[0, 0]
    given = asked.inputs._replace(vectors=vectors, numbers=numbers, sequence=asked.baseline.sequence)
    found = dataclasses.replace(asked, inputs=given).answer()
    assert found.fields["video"] == pytest.approx(float(given.linear[0, 1]), abs=1e-9)
    assert found.fields["watched"] == pytest.approx(0.0, abs=1e-9)
    numeric = asked.model.numeric
    assert numeric is not None
    assert found.fields["age"] == pytest.approx(float(numeric.weight[0, 0] * numbers[0, 0]), abs=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_model_explains_what_it_scores(name: str) -> None:
    settings = ModelSettings.model_validate({"name": name, "hidden": (16, 12), "learning_rate": 0.01, **MODELS[name]})
    definition = small_definition().model_copy(update={"model": settings})
    learner = Learner(definition, Shard(definition.tables, definition.seed))
    for seed in range(30):
        learner.score_and_learn(random_batch(definition, seed))
    weights = learner.scorer.weights.copy()
    rng = np.random.default_rng(7)
    for batch in (learner.scorer.featurizer.featurize(columns_of(definition, [message(rng, 1)])) for _ in range(5)):
        expected = learner.scorer.logits(batch)[0]
        for task in (0, 1):
            found = ask(learner.scorer, batch, task).answer()
            assert found.logit == pytest.approx(float(expected[task]), abs=1e-5)
            assert found.bias + math.fsum(found.fields.values()) == pytest.approx(float(expected[task]), abs=1e-4)
    assert learner.scorer.weights.tobytes() == weights.tobytes()


# Over HTTP


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    for _ in range(30):
        world.learn(
            example("ann", ("a", 1), ("b", 0), genre=["x", "y"], seconds=30),
            example("bob", ("a", 0), ("b", 1), genre="x", seconds=200),
        )
    return world


def explain(world: World, **body):
    answer = world.post("/v1/explain", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_explanation_tells_the_logit_of_the_ranking(world: World) -> None:
    item = {"id": "a", "genre": ["x"], "seconds": 30}
    found = explain(world, user={"id": "ann"}, item=item)
    score = world.rank({"id": "ann"}, [item])["items"][0]["score"]
    assert 1 / (1 + math.exp(-found["logit"])) == pytest.approx(score, abs=1e-6)
    assert found["bias"] + sum(found["fields"].values()) == pytest.approx(found["logit"], abs=1e-4)
    assert set(found["fields"]) == {"user", "item", "genre", "device", "hour", "seconds", "both"}
    assert (found["task"], found["model"]) == ("click", {"name": "default", "commit": 30, "age_ms": 3})
    assert found["fields"]["both"] > 0 > explain(world, user={"id": "ann"}, item="b")["fields"]["both"]


def test_two_items_that_nobody_has_seen_are_explained_alike(world: World) -> None:
    assert explain(world, user={}, item="new") == explain(world, user={}, item=987654321)


def test_the_explained_task_is_that_of_the_score() -> None:
    world = World(define(score="like"))
    world.learn(example("ann", ("a", 1), ("b", 0)))
    found = explain(world, user={"id": "ann"}, item="a")
    assert found["task"] == "like"
    score = world.rank({"id": "ann"}, ["a"])["items"][0]["scores"]["like"]
    assert 1 / (1 + math.exp(-found["logit"])) == pytest.approx(score, abs=1e-6)


def test_of_a_formula_the_first_task_is_explained() -> None:
    world = World(define(score="0.3 * like + 0.7 * click"))
    world.learn(example("ann", ("a", 1), ("b", 0)))
    assert explain(world, user={"id": "ann"}, item="a")["task"] == "like"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user": {}}, "item"),
        ({"user": {}, "item": None}, "item"),
        ({"user": {}, "item": 1.5}, "item"),
        ({"user": {}, "item": True}, "item"),
        ({"user": {}, "item": {}}, "item.id"),
        ({"user": {}, "item": {"id": []}}, "item.id"),
        ({"user": {}, "item": {"id": 1, "genre": 1.5}}, "item.genre"),
        ({"user": {}, "item": {"id": 1, "seconds": "12"}}, "item.seconds"),
        ({"user": {"id": 1.5}, "item": 1}, "user.id"),
        ({"user": {}, "context": None, "item": 1}, "context"),
        ({"item": 1}, "user"),
    ],
)
def test_a_bad_field_of_a_question_is_named(world: World, body: dict, field: str) -> None:
    answer = world.post("/v1/explain", body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == field


def test_before_the_first_bootstrap_a_question_is_asked_to_come_again() -> None:
    answer = World(bootstrapped=False).post("/v1/explain", {"user": {}, "item": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# On the command line


def run(world: World, monkeypatch: pytest.MonkeyPatch, *words: str):
    import httpx
    import typer

    from services.cli.explain import register

    def post(url: str, json: dict, **_: object) -> httpx.Response:
        assert url == "http://ranker:1/v1/explain"
        return world.post("/v1/explain", json)

    monkeypatch.setattr(httpx, "post", post)
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [*words, "--url", "http://ranker:1"])


def test_the_command_prints_every_contribution(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(world, monkeypatch, "ann", '{"id": "a", "genre": ["x"]}')
    assert found.exit_code == 0, found.output
    answer = explain(world, user={"id": "ann"}, item={"id": "a", "genre": ["x"]})
    for name, share in answer["fields"].items():
        assert name in found.output
        assert f"{share:+.4f}" in found.output
    assert f"{answer['logit']:+.4f}" in found.output


def test_the_command_prints_the_answer_as_json(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import orjson

    found = run(world, monkeypatch, "ann", "a", "--context", '{"device": "ios"}', "--json")
    assert orjson.loads(found.output) == explain(world, user={"id": "ann"}, context={"device": "ios"}, item={"id": "a"})


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("ann", "{"), 2, "not JSON"),
        (("ann", "a", "--context", "[]"), 2, "must be a JSON object"),
        (("ann", '{"genre": "x"}'), 1, "`item.id` must be a string or an integer, got nothing"),
    ],
)
def test_the_command_names_what_is_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, text: str
) -> None:
    found = run(world, monkeypatch, *words)
    assert found.exit_code == code
    assert text in found.output


def test_the_command_says_where_no_ranker_answered(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import typer

    from services.cli.explain import register

    def refuse(*_: object, **__: object) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(httpx, "post", refuse)
    app = typer.Typer()
    register(app)
    found = CliRunner().invoke(app, ["ann", "a", "--data-dir", str(tmp_path)])
    assert found.exit_code == 1
    assert "http://127.0.0.1:8080" in found.output
    assert "dolmen up" in found.output
