"""One set of checks that every model passes, and each model against plain NumPy."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from embedding_store.shard import Shard
from tests.definitions import random_batch, small_definition
from trainer.learner import Learner
from trainer.models import build_model
from trainer.models.dice import Dice
from trainer.models.inputs import Inputs, Shape
from trainer.models.model import Model
from trainer.models.regularisation import batch_aware
from trainer.models.residual import Residual
from trainer.scorer import Scorer
from trainer.settings import ModelSettings

MODELS = {
    "deepfm": {},
    "fm": {},
    "dcn": {},
    "dcn of low rank": {"name": "dcn", "low_rank": 8, "cross_layers": 3},
    "din": {},
    "residual": {},
}
ROWS = 24
PLAIN = Shape(fields=5, dim=4, numbers=3, tasks=1, hidden=(16, 12))
SHAPES = {
    "plain": PLAIN,
    "three tasks": dataclasses.replace(PLAIN, tasks=3),
    "gaussian": dataclasses.replace(PLAIN, tasks=2, gaussian=True),
    "sequence": dataclasses.replace(PLAIN, sequence_length=6, target=2),
    "all of it": dataclasses.replace(PLAIN, tasks=3, gaussian=True, sequence_length=6, target=0),
    "no numbers": dataclasses.replace(PLAIN, numbers=0),
    "no vectors": dataclasses.replace(PLAIN, dim=0, sequence_length=6, target=2),
    "neither": dataclasses.replace(PLAIN, dim=0, numbers=0),
    "no hidden layer": dataclasses.replace(PLAIN, hidden=()),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def build(name: str, shape: Shape, seed: int = 3) -> Model:
    settings = ModelSettings.model_validate({"name": name, "attention_hidden": (12,), **MODELS[name]})
    return build_model(small_definition(seed=seed).model_copy(update={"model": settings}), shape)


def trained(name: str, shape: Shape, scale: float = 0.5) -> Model:
    """In double precision, with weights as a long training might leave them."""
    model = build(name, shape).double()
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part, weights in model.named_parameters():
            weights.copy_(scale * torch.randn(weights.shape, generator=random, dtype=torch.float64))
            if part.endswith("variance"):
                weights.abs_().add_(0.1)
    return model


def inputs(shape: Shape, seed: int = 1, rows: int = ROWS, dtype: torch.dtype = torch.float64) -> Inputs:
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=random, dtype=torch.float64).to(dtype)

    n = shape.sequence_length
    return Inputs(
        normal(rows, shape.fields),
        normal(rows, shape.fields, shape.dim),
        normal(rows, shape.numbers),
        normal(rows, shape.tasks) if shape.gaussian else None,
        torch.sigmoid(normal(rows, shape.fields)) if shape.gaussian else None,
        normal(rows, n, shape.dim) if n else None,
        torch.arange(n) < torch.randint(0, n + 1, (rows, 1), generator=random) if n else None,
        normal(rows, n).abs() if n else None,
    )


def floats(some: Inputs) -> dict[str, torch.Tensor]:
    found = some._asdict()
    return {name: value for name, value in found.items() if value is not None and value.is_floating_point()}


def pairs(some: Inputs) -> np.ndarray:
    """Sum of the inner products of all pairs, one by one."""
    vectors = some.vectors.numpy()
    return np.array([[sum(row[i] @ row[j] for i in range(len(row)) for j in range(i))] for row in vectors])


# What every model keeps to


@every_model
@every_shape
def test_a_seed_gives_the_same_model_every_time(name: str, shape: Shape) -> None:
    before = torch.get_rng_state()
    one, other = (dict(build(name, shape).named_parameters()) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert list(one) == list(other)
    assert all(torch.equal(one[part], other[part]) for part in one)
    if name != "fm" and shape.hidden and shape.flat:
        another = dict(build(name, shape, seed=4).named_parameters())
        assert any(not torch.equal(one[part], another[part]) for part in one)


@every_model
@every_shape
def test_a_fresh_network_adds_nothing(name: str, shape: Shape) -> None:
    some = inputs(shape)
    start = some.wide.numpy() if some.wide is not None else some.linear.numpy().sum(1, keepdims=True)
    if name in ("fm", "deepfm"):
        start = start + pairs(some)
    found = build(name, shape).double()(some)
    assert found.shape == (ROWS, shape.tasks)
    np.testing.assert_allclose(found.detach().numpy(), np.broadcast_to(start, found.shape), rtol=1e-12, atol=1e-12)


@every_model
@every_shape
def test_gradients_are_those_of_finite_differences(name: str, shape: Shape) -> None:
    model, some = trained(name, shape).eval(), inputs(shape)
    random = torch.Generator().manual_seed(8)
    weight = torch.randn(ROWS, shape.tasks, generator=random, dtype=torch.float64)
    leaves = {part: value.requires_grad_() for part, value in floats(some).items()}
    wanted = {**leaves, **{part: p for part, p in model.named_parameters() if p.requires_grad}}
    loss = (weight * model(some)).sum()
    slopes = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    step = 1e-6
    for (part, value), slope in zip(wanted.items(), slopes, strict=True):
        for _ in range(3):
            way = torch.randn(value.shape, generator=random, dtype=torch.float64)
            ends = []
            with torch.no_grad():
                kept = value.clone()
                for sign in (1, -1):
                    value.copy_(kept + sign * step * way)
                    ends.append(float((weight * model(some)).sum()))
                value.copy_(kept)
            expected = (ends[0] - ends[1]) / (2 * step)
            assert float((slope * way).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-5), part


@every_model
@every_shape
def test_a_row_has_the_same_logit_alone_and_in_a_batch(name: str, shape: Shape) -> None:
    model, some = trained(name, shape, 0.15).float(), inputs(shape, dtype=torch.float32)
    together = model(some).detach()
    for row in range(ROWS):
        alone = model(Inputs(*(None if part is None else part[row : row + 1] for part in some))).detach()
        torch.testing.assert_close(alone[0], together[row], rtol=1e-6, atol=1e-6)


@every_model
@every_shape
def test_equal_rows_have_equal_logits_wherever_they_stand(name: str, shape: Shape) -> None:
    model, one = trained(name, shape).float(), inputs(shape, rows=1, dtype=torch.float32)
    found = model(Inputs(*(None if part is None else part.repeat(ROWS, *[1] * (part.dim() - 1)) for part in one)))
    assert (found == found[0]).all()


@every_model
@every_shape
def test_inputs_are_left_as_they_were(name: str, shape: Shape) -> None:
    some, same = inputs(shape), inputs(shape)
    trained(name, shape)(some).sum().backward()
    assert all(part is None or torch.equal(part, other) for part, other in zip(some, same, strict=True))


@every_model
def test_what_lies_under_the_mask_has_no_influence(name: str) -> None:
    shape = SHAPES["all of it"]
    model, some = trained(name, shape), inputs(shape)
    expected = model(some)
    for junk in (7.0, float("nan"), float("inf")):
        sequence = some.sequence.masked_fill(~some.mask[:, :, None], junk).requires_grad_()
        found = model(some._replace(sequence=sequence, ages=some.ages.masked_fill(~some.mask, junk)))
        assert torch.equal(found, expected)
        slope = torch.autograd.grad(found.sum(), sequence, allow_unused=True, materialize_grads=True)[0]
        assert (slope[~some.mask] == 0).all()
    if name == "din":
        assert not torch.allclose(model(some._replace(mask=~some.mask)), expected)


@every_model
def test_without_a_sequence_every_history_counts_as_empty(name: str) -> None:
    model, some = trained(name, SHAPES["sequence"]), inputs(SHAPES["sequence"])
    empty = some._replace(mask=torch.zeros_like(some.mask))
    absent = some._replace(sequence=None, mask=None, ages=None)
    torch.testing.assert_close(model(absent), model(empty))


@every_model
def test_a_wide_logit_stands_in_for_the_linear_sum_and_the_bias(name: str) -> None:
    shape = SHAPES["gaussian"]
    model, some = trained(name, shape), inputs(shape)
    found = model(some)
    found.sum().backward()
    assert model.bias.grad is None
    if name != "residual":
        moved = model(some._replace(linear=some.linear + 1.0, wide=some.wide + 0.25))
        torch.testing.assert_close(moved, found + 0.25)


@every_model
def test_tasks_have_logits_of_their_own(name: str) -> None:
    shape = SHAPES["three tasks"]
    model = trained(name, shape)
    first, second, third = model(inputs(shape)).T
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


@every_model
def test_a_reader_scores_as_the_model_that_learned_and_committed(name: str) -> None:
    settings = ModelSettings.model_validate({"name": name, "hidden": (7, 5), "learning_rate": 0.01, **MODELS[name]})
    definition = small_definition().model_copy(update={"model": settings})
    shard = Shard(definition.tables, definition.seed)
    learner, reader = Learner(definition, shard), Scorer(definition, shard)
    fresh = learner.scorer.weights.copy()
    for seed in range(8):
        learner.score_and_learn(random_batch(definition, seed))
    parts = learner.parts()
    assert reader.load_dense(parts["dense"]) == []
    reader.load_numbers(parts["numbers"])
    batch = random_batch(definition, 9)
    assert reader.logits(batch).tobytes() == learner.scorer.logits(batch).tobytes()
    assert fresh.tobytes() != learner.scorer.weights.tobytes()


def test_a_sequence_without_the_candidates_field_is_refused() -> None:
    for target in (None, 5, -1):
        with pytest.raises(ValueError, match="target: a sequence needs the candidate's own field, 0 to 4"):
            dataclasses.replace(PLAIN, sequence_length=6, target=target)


# Each against plain NumPy


def arrays(model: Model) -> dict[str, np.ndarray]:
    return {part: weights.detach().numpy() for part, weights in model.named_parameters()}


def flat(some: Inputs, row: int) -> np.ndarray:
    return np.concatenate([some.vectors[row].numpy().ravel(), some.numbers[row].numpy()])


def relu(parts: dict[str, np.ndarray], layer: int, x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def dice_of(parts: dict[str, np.ndarray], name: str, s: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-(s - parts[f"{name}.mean"]) / np.sqrt(parts[f"{name}.variance"] + 1e-4)))
    return p * s + (1 - p) * parts[f"{name}.slope"] * s


def dice(parts: dict[str, np.ndarray], layer: int, x: np.ndarray) -> np.ndarray:
    return dice_of(parts, f"network.{layer + 1}", x)


def network(parts: dict[str, np.ndarray], x: np.ndarray, activation: Callable = relu) -> np.ndarray:
    """Two hidden layers and the last."""
    for layer in (0, 2):
        x = activation(parts, layer, parts[f"network.{layer}.weight"] @ x + parts[f"network.{layer}.bias"])
    return parts["network.4.weight"] @ x


def additive(parts: dict[str, np.ndarray], some: Inputs, row: int) -> np.ndarray:
    wide = some.linear[row].numpy().sum() + parts["bias"] if some.wide is None else some.wide[row].numpy()
    return wide + parts["numeric.weight"] @ some.numbers[row].numpy() if "numeric.weight" in parts else wide


def dcn(parts: dict[str, np.ndarray], some: Inputs, row: int) -> np.ndarray:
    first = x = flat(some, row)
    for layer in range(8):
        name = f"cross.{layer}"
        if f"{name}.product.weight" in parts:
            matrix = parts[f"{name}.product.weight"]
            if f"{name}.shrink.weight" in parts:
                matrix = matrix @ parts[f"{name}.shrink.weight"]
            x = first * (matrix @ x + parts[f"{name}.product.bias"]) + x
    return parts["crossed.weight"] @ x + network(parts, first)


def din(parts: dict[str, np.ndarray], some: Inputs, row: int) -> np.ndarray:
    candidate = some.vectors[row, 2].numpy()
    interest = np.zeros_like(candidate)
    for n in range(6):
        if not some.mask[row, n]:
            continue
        h = some.sequence[row, n].numpy()
        x = np.concatenate([h, candidate, h - candidate, h * candidate, [float(some.ages[row, n])]])
        x = parts["attention.layers.0.weight"] @ x + parts["attention.layers.0.bias"]
        x = dice_of(parts, "attention.activations.0", x)
        interest += float((parts["attention.last.weight"] @ x + parts["attention.last.bias"])[0]) * h
    return network(parts, np.concatenate([flat(some, row), interest, interest * candidate]), dice)


def residual(parts: dict[str, np.ndarray], some: Inputs, row: int) -> np.ndarray:
    confidence = [] if some.confidence is None else some.confidence[row].numpy()
    x = np.concatenate(
        [additive(parts, some, row), some.linear[row].numpy(), confidence, some.numbers[row].numpy()]
    )  # fmt: skip
    return parts["line.weight"] @ x + network(parts, x)


def deepfm(parts: dict[str, np.ndarray], some: Inputs, row: int) -> np.ndarray:
    return pairs(some)[row] + network(parts, flat(some, row))


@pytest.mark.parametrize(
    ("name", "oracle", "shape"),
    [
        ("fm", lambda parts, some, row: pairs(some)[row], "three tasks"),
        ("deepfm", deepfm, "three tasks"),
        ("dcn", dcn, "three tasks"),
        ("dcn of low rank", dcn, "plain"),
        ("din", din, "sequence"),
        ("residual", residual, "plain"),
        ("residual", residual, "gaussian"),
    ],
)
def test_logits_are_those_of_plain_numpy(name: str, oracle: Callable, shape: str) -> None:
    model, some = trained(name, SHAPES[shape]), inputs(SHAPES[shape])
    parts = arrays(model)
    expected = np.array([additive(parts, some, row) + oracle(parts, some, row) for row in range(ROWS)])
    np.testing.assert_allclose(model(some).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


# Dice


def test_dice_follows_the_mean_and_variance_of_what_it_sees() -> None:
    some = Dice(2)
    random = torch.Generator().manual_seed(1)
    for _ in range(2000):
        some(torch.randn(64, 2, generator=random) * torch.tensor([0.5, 2.0]) + torch.tensor([3.0, -1.0]))
        some.observe()
    assert some.mean.tolist() == pytest.approx([3.0, -1.0], abs=0.15)
    assert some.variance.tolist() == pytest.approx([0.25, 4.0], rel=0.1)


def test_one_observation_moves_the_statistics_by_its_share_of_the_window() -> None:
    some = Dice(1).double()
    some(torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    some.observe()
    share = 2 / 5002
    assert some.mean.item() == pytest.approx(2 * share)
    assert some.variance.item() == pytest.approx(1 + share * ((1 + 9) / 2 - 1))


def test_statistics_leave_out_what_is_masked_and_move_once_for_each_pass() -> None:
    some, other = Dice(1), Dice(1)
    some(torch.tensor([[[1.0], [1e9]], [[3.0], [-1e9]]]), torch.tensor([[True, False], [True, False]]))
    other(torch.tensor([[1.0], [3.0]]))
    for one in (some, other):
        one.observe()
        one.observe()
    assert (some.mean.item(), some.variance.item()) == (other.mean.item(), other.variance.item())
    some(torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.bool))
    some.observe()
    assert some.mean.item() == other.mean.item()


def test_scoring_alone_is_not_observed() -> None:
    some = Dice(1)
    with torch.inference_mode():
        some(torch.ones(4, 1))
    some.observe()
    assert (some.mean.item(), some.variance.item()) == (0.0, 1.0)


# Mini-batch aware regularisation


def test_decay_over_a_stream_is_bounded_by_the_logarithm_of_an_ids_count() -> None:
    rare, frequent = np.ones(1), np.ones(1)
    for n in range(1, 1001):
        frequent -= batch_aware(frequent.reshape(1, 1, 1).astype(np.float32), np.array([[n]]), 0.01).ravel()
        if n <= 2:
            rare -= batch_aware(rare.reshape(1, 1, 1).astype(np.float32), np.array([[n]]), 0.01).ravel()
    assert rare[0] == pytest.approx(0.99 * 0.995)
    assert frequent[0] == pytest.approx(np.exp(-0.01 * (np.log(1000) + 0.5772)), rel=1e-3)


def test_the_learner_decays_the_vectors_of_a_batch_by_how_often_their_ids_were_seen() -> None:
    class Recorder(Shard):
        gradients: np.ndarray

        def step(self, batch, scored, updated, gradients, fields):
            self.gradients = gradients.copy()
            super().step(batch, scored, updated, gradients, fields)

    found = []
    for strength in (0.0, 0.5):
        settings = ModelSettings(name="din", hidden=(7, 5), embedding_l2=strength)
        definition = small_definition().model_copy(update={"model": settings})
        learner = Learner(definition, Recorder(definition.tables, definition.seed))
        learner.score_and_learn(random_batch(definition, 1).lists(0, 3))
        found.append(learner.shard.gradients)
    definition = small_definition()
    shard = Shard(definition.tables, definition.seed)
    fields = Scorer(definition, shard).embedder.embed(random_batch(definition, 1).lists(0, 3)).pooled
    np.testing.assert_allclose(found[1][:, :, 1:] - found[0][:, :, 1:], 0.5 * fields[:, :, 1:], atol=1e-7)
    assert (found[1][:, :, 0] == found[0][:, :, 0]).all()


@pytest.mark.parametrize(("tasks", "hidden"), [(1, (16,)), (3, (7, 5)), (2, ())])
def test_the_residual_networks_own_products_give_what_torch_gives(tasks: int, hidden: tuple[int, ...]) -> None:
    shape = Shape(fields=5, dim=0, numbers=3, tasks=tasks, hidden=hidden, gaussian=True)
    given = inputs(shape, dtype=torch.float32)
    errors = np.random.default_rng(4).normal(size=(ROWS, tasks)).astype(np.float32)
    found = []
    for run in (Model.run, Residual.run):
        model = trained("residual", shape).float()
        logits, backward = run(model, given)
        backward(errors)
        slopes = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        found.append((logits, slopes))
    (logits, slopes), (own_logits, own_slopes) = found
    np.testing.assert_allclose(own_logits, logits, rtol=1e-5, atol=1e-5)
    assert own_slopes.keys() == slopes.keys() - {"bias"}
    for name, slope in own_slopes.items():
        np.testing.assert_allclose(slope, slopes[name], rtol=1e-4, atol=1e-4)
