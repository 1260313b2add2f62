"""Gaussian weights: the kernels against plain NumPy, and small problems against the exact posterior."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from embedding_store.lookup import Fields
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, fields_of, occurrences

NOISE, DRIFT, COLD_SHARE = 0.05, 1e-6, 0.03


def table(name: str, prior: float, tasks: int = 1, **more: Any) -> TableSettings:
    return TableSettings(name=name, dim=0, linear="gaussian", prior_variance=prior, tasks=tasks, **more)


@dataclass
class Plain:
    """Weights by table and id, in plain Python: [mean, variance] of each task."""

    tables: list[TableSettings]
    rows: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    seen: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = self.tables[0].tasks
        self.cold = [[[0.0, COLD_SHARE * t.prior_variance] for _ in range(self.tasks)] for t in self.tables]
        self.bias = [[0.0, 1.0] for _ in range(self.tasks)]

    def weight(self, number: int, key: int | None, task: int) -> tuple[float, float]:
        if key is not None and (number, key) in self.rows:
            mean, variance = self.rows[number, key][task]
            return mean, variance
        mean, variance = self.cold[number][task]
        return mean, variance + (0.0 if key is None else self.tables[number].prior_variance)

    def moments(self, example: Any, fields: Fields, task: int, owns: Any = None) -> tuple[float, float]:
        m, s = self.bias[task][0], NOISE + self.bias[task][1]
        for f, cell in enumerate(example):
            share = 1 / len(cell) if fields.means[f] else 1.0
            for j, key in enumerate(cell):
                mean, variance = self.weight(int(fields.tables[f]), key, task)
                if owns is not None and owns[f][j] is not None:
                    mean, variance = owns[f][j][task]
                elif owns is not None:  # it had no row yet when it was seen, though it may have one by now
                    mean, variance = self.cold[int(fields.tables[f])][task]
                    variance += 0.0 if key is None else self.tables[int(fields.tables[f])].prior_variance
                m, s = m + share * mean, s + share**2 * variance
        return m, s

    def see(self, number: int, key: int | None) -> list[list[float]] | None:
        """Counts a sighting; gives the id's own row."""
        if key is None or (number, key) in self.rows:
            return None if key is None else self.rows[number, key]
        self.seen[number, key] = self.seen.get((number, key), 0) + 1
        if self.seen[number, key] < self.tables[number].admit_after:
            return None
        prior = self.tables[number].prior_variance
        self.rows[number, key] = [[cold[0], prior] for cold in self.cold[number]]
        return self.rows[number, key]

    def learn(self, examples: Any, fields: Fields, labels: Any, weights: Any) -> None:
        known = set(self.rows)
        owns = [
            [[self.see(int(fields.tables[f]), key) for key in cell] for f, cell in enumerate(example)]
            for example in examples
        ]
        for example, own, label, weight in zip(examples, owns, labels, weights, strict=True):
            for task in range(self.tasks):
                if weight and not math.isnan(label[task]):
                    self.one(example, fields, label[task], weight, task, own, known)

    def one(self, example: Any, fields: Fields, label: float, weight: float, task: int, owns: Any, known: Any) -> None:
        self.bias[task][1] += DRIFT
        m, s = self.moments(example, fields, task, owns)
        p = 1 / (1 + math.exp(-m / math.sqrt(1 + math.pi / 8 * s)))
        h = weight * p * (1 - p)
        d = 1 + h * s
        for f, cell in enumerate(example):
            number = int(fields.tables[f])
            share = 1 / len(cell) if fields.means[f] else 1.0
            for key, own in zip(cell, owns[f], strict=True):
                if own is not None:
                    self.move(own[task], share, weight * (label - p) / d, h / d)
                if own is None or (number, key) not in known:
                    cold = self.cold[number][task]
                    beside = d + h * share**2 * cold[1] if own is not None else d
                    self.move(cold, share, weight * (label - p) / beside, h / beside)
        self.move(self.bias[task], 1.0, weight * (label - p) / d, h / d)

    @staticmethod
    def move(weight: list[float], share: float, step: float, shrink: float) -> None:
        v = share * weight[1]
        weight[0] += v * step
        weight[1] -= v * v * shrink


class Gaussian:
    """A shard that learns by Gaussian weights alone."""

    def __init__(self, tables: list[TableSettings], fields: Fields) -> None:
        self.shard, self.fields = Shard(tables, SEED), fields
        self.bias = np.tile([0.0, 1.0], (tables[0].tasks, 1))

    def score(self, examples: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch = occurrences(examples)
        rows = self.shard.lookup(batch, self.fields)
        return self.shard.score_gaussian(rows, batch, self.fields, self.bias, self.fields.tables.size)

    def learn(self, examples: Any, labels: Any, weights: Any = None, time_ms: int = 1000, shifts: Any = None) -> None:
        batch, count = occurrences(examples), len(examples)
        rows = self.shard.lookup(batch, self.fields)
        times = np.full(count, time_ms, dtype=np.int64)
        own = self.shard.sight(batch, rows, self.fields, times, np.arange(count, dtype=np.uint64))
        some = np.ones(count) if weights is None else np.array(weights)
        known = np.array(labels, dtype=np.float32).reshape(count, -1)
        self.shard.learn_gaussian(
            batch, rows, own, self.fields, known, some.astype(np.float32),
            np.zeros_like(known) if shifts is None else np.array(shifts, dtype=np.float32).reshape(count, -1),
            self.bias, self.fields.tables.size,
        )  # fmt: skip
        self.shard.pass_on(times)

    def weights(self, number: int, key: int) -> list[list[float]]:
        rows = np.array([number]) if key < 0 else self.shard.index.lookup(number, np.array([key]))
        (block,) = self.shard.blocks(rows)
        return block.entries["values"][0, : self.shard.tables[number].lead].reshape(-1, 2).tolist()


TABLES = [table("user", 0.3, 2), table("tag", 0.5, 2, admit_after=2), table("tab", 3.0, 2)]
FIELDS = fields_of([0, 1, 1, 2], [True, True, False, True])


def random_cell(rng: np.random.Generator) -> list[int | None]:
    ids = rng.integers(0, 12, rng.integers(1, 4)).tolist()
    return [None if rng.random() < 0.15 else key for key in ids]


def random_batch(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    count = int(rng.integers(1, 9))
    examples = [[random_cell(rng) for _ in range(4)] for _ in range(count)]
    labels = rng.integers(0, 2, (count, 2)).astype(float)
    labels[rng.random((count, 2)) < 0.2] = np.nan
    return examples, labels, rng.choice([0.0, 0.5, 1.0, 3.0], count)


def test_score_and_learning_are_those_of_plain_python_over_pools_weights_tasks_and_missing_labels():
    rng = np.random.default_rng(5)
    some, plain = Gaussian(TABLES, FIELDS), Plain(TABLES)
    for _ in range(60):
        examples, labels, weights = random_batch(rng)
        moments, means, confidence = some.score(examples)
        for b, example in enumerate(examples):
            for t in range(2):
                np.testing.assert_allclose(moments[b, t], plain.moments(example, FIELDS, t), rtol=2e-5, atol=1e-6)
            for f, cell in enumerate(example):
                share = 1 / len(cell) if FIELDS.means[f] else 1.0
                known = [plain.weight(int(FIELDS.tables[f]), key, 1) for key in cell]
                assert means[b, f, 1] == pytest.approx(share * sum(m for m, _ in known), rel=1e-4, abs=1e-6)
                spread = share**2 * sum(v for _, v in known)
                prior = TABLES[int(FIELDS.tables[f])].prior_variance
                assert confidence[b, f, 1] == pytest.approx(max(0, 1 - spread / prior), rel=1e-4, abs=1e-5)
        some.learn(examples, labels, weights)
        plain.learn(examples, FIELDS, labels.tolist(), weights.tolist())
    np.testing.assert_allclose(some.bias, plain.bias, rtol=1e-5)
    assert sorted(plain.rows) == sorted(
        (t, int(key)) for t in range(3) for key in some.shard.rows.headers["id"][some.shard.live_rows(t)]
    )
    for (number, key), weight in plain.rows.items():
        np.testing.assert_allclose(some.weights(number, key), weight, rtol=1e-4, atol=1e-6)
    for number in range(3):
        np.testing.assert_allclose(some.weights(number, -1), plain.cold[number], rtol=1e-4, atol=1e-6)


def test_an_unknown_id_scores_with_the_cold_mean_and_prior_plus_cold_variance():
    some = Gaussian([table("user", 0.4)], fields_of([0]))
    some.learn([[1], [2], [None], [3]], [1, 1, 1, 0])
    ((cold_mean, cold_variance),) = some.weights(0, -1)
    assert cold_mean != 0
    moments, _, confidence = some.score([[77], [78], [None]])
    mean, variance = some.bias[0]
    np.testing.assert_allclose(moments[:, 0, 0], mean + cold_mean, rtol=1e-6)
    np.testing.assert_allclose(moments[:2, 0, 1], NOISE + variance + cold_variance + 0.4, rtol=1e-6)
    np.testing.assert_allclose(moments[2, 0, 1], NOISE + variance + cold_variance, rtol=1e-6)
    assert confidence[:2].tolist() == [[[0.0]], [[0.0]]]


def test_a_new_row_begins_at_the_cold_mean_with_the_prior_variance():
    some = Gaussian([table("user", 0.4)], fields_of([0]))
    some.learn([[1], [2], [None]], [1, 1, 1])
    ((cold_mean, _),) = some.weights(0, -1)
    some.learn([[9]], [np.nan])  # seen, and nothing learned
    assert some.weights(0, 9) == [pytest.approx([cold_mean, 0.4], rel=1e-6)]


def test_a_row_that_expired_begins_anew_at_the_cold_mean():
    some = Gaussian([table("user", 0.4, expire_after="1s")], fields_of([0]))
    some.learn([[1]] * 20, [1] * 20)
    some.learn([[2]], [1], time_ms=5000)
    ((cold_mean, _),) = some.weights(0, -1)
    some.learn([[1]], [np.nan], time_ms=5100)
    assert some.weights(0, 1) == [pytest.approx([cold_mean, 0.4], rel=1e-6)]


def test_scoring_changes_nothing_and_a_weight_of_zero_teaches_nothing():
    some = Gaussian([table("user", 0.4)], fields_of([0]))
    some.learn([[1], [2]], [1, 0])
    before = some.weights(0, 1), some.weights(0, -1), some.bias.tolist()
    some.score([[1], [2], [3]])
    some.learn([[1], [2], [None]], [1, 0, 1], [0, 0, 0])
    assert (some.weights(0, 1), some.weights(0, -1), some.bias.tolist()) == before


def test_a_shift_of_the_log_odds_teaches_as_a_bias_that_lies_so_much_higher():
    shifted, raised = (Gaussian([table("user", 0.4, 2)], fields_of([0])) for _ in range(2))
    for labels in ([1, 0], [0, 0], [1, np.nan]):
        raised.bias[:, 0] += [2.0, -1.0]
        raised.learn([[1]], [labels])
        raised.bias[:, 0] -= [2.0, -1.0]
        shifted.learn([[1]], [labels], shifts=[[2.0, -1.0]])
        np.testing.assert_allclose(shifted.bias, raised.bias, rtol=1e-12)
        np.testing.assert_allclose(shifted.weights(0, 1), raised.weights(0, 1), rtol=1e-6)


def test_batches_of_any_size_learn_the_same_from_known_ids():
    rng = np.random.default_rng(2)
    examples = [[int(key)] for key in rng.integers(0, 5, 200)]
    labels = rng.integers(0, 2, 200).tolist()
    found = []
    for size in (1, 7, 200):
        some = Gaussian([table("user", 0.4)], fields_of([0]))
        some.learn([[key] for key in range(5)], [np.nan] * 5)
        for first in range(0, 200, size):
            some.learn(examples[first : first + size], labels[first : first + size])
        found.append([some.weights(0, key) for key in range(5)])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("weight", [1.0, 50.0, 1e4, 1e8])
def test_a_variance_never_becomes_negative_however_heavy_the_examples_are(weight):
    some = Gaussian([table("user", 50.0)], fields_of([0], False))
    rng = np.random.default_rng(1)
    for first in range(0, 40, 4):
        examples = [[[first + n % 4, first + (n + 1) % 4, None]] for n in range(30)]
        some.learn(examples, rng.integers(0, 2, 30), np.full(30, weight))
        variances = [v for key in (-1, first, first + 1) for _, v in some.weights(0, key)]
        assert min(variances) > 0
        assert np.isfinite(some.score(examples)[0]).all()


def posterior(
    priors: list[tuple[float, float]], rows: Any, labels: Any, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of one or two weights, by integration over a grid.

    Args:
        priors: Mean and variance of each weight.
        rows: Which weights add to each example's log odds.
        labels: 0 or 1 of each.
        noise: Variance of a score beside its weights: of it, the likelihood is the mean over a normal.
    """
    axes = [np.linspace(m - 7 * math.sqrt(v), m + 7 * math.sqrt(v), 401) for m, v in priors]
    grid = np.meshgrid(*axes, indexing="ij")
    log = sum(-((x - m) ** 2) / (2 * v) for x, (m, v) in zip(grid, priors, strict=True))
    points, shares = np.polynomial.hermite_e.hermegauss(9)
    for row, label in zip(rows, labels, strict=True):
        z = sum(grid[w] for w in row)
        p = sum(share / (1 + np.exp(-(z + math.sqrt(noise) * x))) for x, share in zip(points, shares, strict=True))
        p = p / shares.sum()
        log = log + np.log(p if label else 1 - p)
    density = np.exp(log - log.max())
    density /= density.sum()
    means = [float((x * density).sum()) for x in grid]
    deviations = [math.sqrt(float(((x - m) ** 2 * density).sum())) for x, m in zip(grid, means, strict=True)]
    return np.array(means), np.array(deviations)


@pytest.mark.parametrize("prior", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("labels", [[1], [1, 1, 1, 0], [0, 1] * 6, [1, 0, 0, 0, 0, 0, 0, 1, 0, 0]])
def test_one_weight_comes_near_its_exact_posterior(prior, labels):
    some = Gaussian([table("user", prior)], fields_of([0]))
    some.bias[0] = [0.0, 1e-9]  # a bias that is known
    some.learn([[1]], [np.nan])
    some.learn([[1]] * len(labels), labels)
    ((mean, variance),) = some.weights(0, 1)
    exact, deviation = posterior([(0.0, prior)], [[0]] * len(labels), labels, NOISE)
    assert abs(mean - exact[0]) < 0.2 * deviation[0]
    assert math.sqrt(variance) == pytest.approx(deviation[0], rel=0.15)


@pytest.mark.parametrize("seed", range(6))
def test_two_weights_and_their_sum_come_near_the_exact_posterior(seed):
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, 14)  # the first weight, the second, both
    labels = rng.integers(0, 2, 14).tolist()
    rows = [[[0], [1], [0, 1]][kind] for kind in kinds]
    some = Gaussian([table("user", 0.6), table("item", 0.3)], fields_of([0, 1], False))
    some.bias[0] = [0.0, 1e-9]
    some.learn([[1, 1], [2, 2]], [np.nan, np.nan])
    cold = [some.shard.rows.headers["at"][t] for t in range(2)]
    for at in cold:
        some.shard.rows.memory[at : at + 2] = [0.0, 1e-9]  # a missing value adds nothing
    some.learn([[1 if 0 in row else None, 1 if 1 in row else None] for row in rows], labels)
    exact, deviation = posterior([(0.0, 0.6), (0.0, 0.3)], rows, labels, NOISE)
    for number in range(2):
        ((mean, variance),) = some.weights(number, 1)
        assert abs(mean - exact[number]) < 0.3 * deviation[number]
        assert math.sqrt(variance) == pytest.approx(deviation[number], rel=0.15)


def test_the_moderated_score_is_near_the_mean_probability_over_the_weights():
    for m in (-3.0, -0.5, 0.0, 1.0, 2.5):
        for s in (0.1, 1.0, 3.0):
            points, shares = np.polynomial.hermite_e.hermegauss(60)
            exact = float((shares / (1 + np.exp(-(m + math.sqrt(s) * points)))).sum() / shares.sum())
            moderated = 1 / (1 + math.exp(-m / math.sqrt(1 + math.pi / 8 * s)))
            assert moderated == pytest.approx(exact, abs=0.02)
