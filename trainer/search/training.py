"""Training of a search's model: passes in random order, alpha in turns with the rows, and what was best on the way."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trainer.search.matrices import Matrices
from trainer.search.network import take
from trainer.search.recipe import Recipe
from trainer.search.steps import Steps


def validation_lines(data: Matrices) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The validation examples that alpha learns from, every other one, and those that choose: int64[·] each."""
    part = data.part("validation")
    lines = np.arange(part.start, part.stop)
    return lines[::2], lines[1::2]


def train(steps: Steps, data: Matrices, recipe: Recipe, passes: float, rng: np.random.Generator) -> float:
    """Trains for some passes over the training part in random order; fractions of a pass count.

    With `recipe.best`, ends with what was best on the choosing half of the validation part, looked at twice a pass.

    Returns:
        Passes that were made.
    """
    left = round(passes * data.parts[0])
    best = _Best(steps, data) if recipe.best else None
    for lines in _turns(data, recipe, left, rng):
        steps.learn(take(data, lines))
        if best is not None:
            best.look(len(lines))
    if best is not None:
        best.restore()
    return left / data.parts[0]


def weigh(
    steps: Steps,
    data: Matrices,
    recipe: Recipe,
    searched: NDArray[np.bool_],
    rng: np.random.Generator,
    shared: bool = False,
) -> tuple[NDArray[np.float32], float]:
    """Rows and network on training batches, alpha on validation batches, in turns.

    With `recipe.best`, ends with the rows, network and alpha that were best on the choosing half.

    **Source**: arXiv 2006.04466, algorithm 1.

    Args:
        steps: Changed.
        data: Examples.
        recipe: How.
        searched: bool[B, K], or broadcast to that: which alpha move.
        rng: Of the orders.
        shared: Whether all numbers of a block move alike.

    Returns:
        Alpha as it ended, float32[B, K], and the passes made.
    """
    upper, _ = validation_lines(data)
    left = round(recipe.search_passes * data.parts[0])
    best = _Best(steps, data) if recipe.best else None
    alphas = batches(upper.size, recipe.alpha_batch, rng)
    mean = np.zeros((len(searched), data.dim))
    for lines in _turns(data, recipe, left, rng):
        ahead = lines if recipe.order == 2 else None
        gradient = steps.alpha_gradient(data, upper[next(alphas)], ahead, recipe.l1)
        mean = recipe.smoothing * mean + (1.0 - recipe.smoothing) * gradient
        steps.select(mean * searched, recipe.alpha_rate, recipe.penalty, recipe.largest, shared)
        steps.learn(take(data, lines), recipe.frozen)
        if best is not None:
            best.look(len(lines))
    alpha = steps.network.alpha.numpy().copy()
    if best is not None:
        best.restore()
    return alpha, left / data.parts[0] * recipe.search_cost


def batches(size: int, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of line numbers below `size` in random order, anew after each pass, without end."""
    while True:
        order = rng.permutation(size)
        for first in range(0, size, batch_size):
            yield order[first : first + batch_size]


def log_loss(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """Mean log loss in nats, of float32[n] each."""
    x = logits.astype(np.float64)
    return float((np.logaddexp(0.0, x) - labels * x).mean())


class _Best:
    """The state that was best on the choosing half of the validation part, looked at twice a pass."""

    def __init__(self, steps: Steps, data: Matrices) -> None:
        self._steps, self._data = steps, data
        self._since, self._every = 0, max(1, data.parts[0] // 2)
        self._loss, self._state = self._now(), steps.network.copy_state()

    def look(self, examples: int) -> None:
        """After so many more examples."""
        self._since += examples
        if self._since >= self._every:
            self._since = 0
            self._compare()

    def restore(self) -> None:
        """Puts the best state back."""
        if self._since:
            self._compare()
        self._steps.network.load_state(self._state)

    def _compare(self) -> None:
        loss = self._now()
        if loss < self._loss:
            self._loss, self._state = loss, self._steps.network.copy_state()

    def _now(self) -> float:
        _, choosing = validation_lines(self._data)
        return log_loss(self._steps.network.scores(self._data, choosing), self._data.labels[choosing])


def _turns(data: Matrices, recipe: Recipe, left: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of training, of so many examples in all."""
    for lines in batches(data.parts[0], recipe.batch_size, rng):
        if left <= 0:
            return
        yield lines[:left]
        left -= len(lines)
