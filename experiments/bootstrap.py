"""How far chance may have moved an AUC, or the difference of two on the same examples."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200


@numba.njit(cache=True)
def _weighted(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], order: NDArray[np.int64], weights: NDArray[np.uint8]
) -> float:
    """AUC of examples, each counted so many times; ties count one half.

    Scores (rising) and labels are by rank, `order` has the example of each rank, and weights are by example.
    """
    below = pairs = good = bad = 0.0
    i = 0
    while i < order.size:
        score, ups, downs = scores[i], 0.0, 0.0
        while i < order.size and scores[i] == score:
            weight = weights[order[i]]
            if positive[i]:
                ups += weight
            else:
                downs += weight
            i += 1
        pairs += ups * (below + downs / 2.0)
        below += downs
        good += ups
        bad += downs
    return pairs / (good * bad) if good and bad else np.nan


@lru_cache(maxsize=4)
def _drawn(seed: int, number: int, count: int) -> NDArray[np.uint8]:
    """How often each example is in each resample: uint8[R, count]. Kept, for all learners take the same."""
    rng = np.random.default_rng((seed, number))
    return np.stack([rng.poisson(1.0, count).astype(np.uint8) for _ in range(RESAMPLES)])


class Estimate(NamedTuple):
    """A mean over seeds and its standard error.

    Attributes:
        mean: Over the seeds.
        error: Standard deviation of that mean over resamples of seeds and examples.
    """

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f}"

    @property
    def signed(self) -> str:
        """With its sign."""
        return f"{self.mean:+.4f} ± {self.error:.4f}"


class Resampled:
    """The AUC of one learner over S seeds: of the examples as they are, and of R resamples of them.

    Resample r draws the same examples for every learner on the same labels, so that differences are paired.

    Args:
        labels: float64[n], the same for every seed, or one array a seed.
        scores: One float64[n] a seed.
        seed: Of the resamples.

    Attributes:
        found: float64[S, 1 + R], the AUC of each seed: of the examples as they are, then of each resample.

    **Source**: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 6; an example's weight is drawn from
    the Poisson distribution of mean 1.
    """

    def __init__(
        self,
        labels: NDArray[np.float64] | Sequence[NDArray[np.float64]],
        scores: Sequence[NDArray[np.float64]],
        seed: int = 0,
    ) -> None:
        of_seed = [labels] * len(scores) if isinstance(labels, np.ndarray) else labels
        self.found = np.empty((len(scores), 1 + RESAMPLES))
        for s, (y, x) in enumerate(zip(of_seed, scores, strict=True)):
            order = np.argsort(x, kind="stable")
            ranked, positive = x[order], y[order] > 0.5
            self.found[s, 0] = _weighted(ranked, positive, order, np.ones(y.size, dtype=np.uint8))
            for r, weights in enumerate(_drawn(seed, s if of_seed is labels else 0, y.size)):
                self.found[s, 1 + r] = _weighted(ranked, positive, order, weights)
        draws = np.random.default_rng((seed, 1 << 20))
        self._drawn = draws.integers(0, len(scores), (RESAMPLES, len(scores)))

    def auc(self) -> Estimate:
        """Mean AUC over the seeds."""
        return self._estimate(self.found)

    def less(self, other: "Resampled") -> Estimate:
        """Mean of the differences, seed by seed, of this AUC and another on the same labels."""
        return self._estimate(self.found - other.found)

    def _estimate(self, found: NDArray[np.float64]) -> Estimate:
        resampled = found[self._drawn, 1 + np.arange(RESAMPLES)[:, None]].mean(1)
        return Estimate(float(found[:, 0].mean()), float(resampled.std(ddof=1)))
