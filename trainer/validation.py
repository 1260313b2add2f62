"""Progressive validation: how good were the scores that were given before their labels were learned?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RELIABILITY_BINS = 10
UNNAMED = -2
"""The id of what belongs to no value of a slice."""

_BINS = 1 << 14
_LOGIT_RANGE = 16.0


def auc(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve; ties count one half. NaN unless both classes are there.

    Args:
        labels: float64[n], positive above 0.5.
        scores: float64[n].
    """
    positive = labels > 0.5
    n_pos = int(positive.sum())
    n_neg = labels.size - n_pos
    if n_pos == 0 or n_neg == 0:
        return math.nan
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    last = np.concatenate([first[1:], [ranked.size]])
    ranks = np.repeat((first + last + 1) / 2.0, last - first)
    return float((ranks[positive[order]].sum() - n_pos * (n_pos + 1) / 2.0) / (n_pos * n_neg))


def log_losses(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log loss of each example, in nats: float64[n]. A score of 0 or 1 counts as 1e-15 away from it."""
    p = np.clip(scores, 1e-15, 1 - 1e-15)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


@dataclass(frozen=True, slots=True)
class Quality:
    """How good some scores were.

    Attributes:
        auc: Area under the ROC curve.
        log_loss: Mean, in nats.
        normalized_entropy: Log loss by that of the base rate; 1 is no better than knowing only that.
        calibration: Predicted by observed positives.
    """

    auc: float
    log_loss: float
    normalized_entropy: float
    calibration: float


def quality(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> Quality:
    """The quality of scores float64[n] against labels float64[n]. NaN where undefined.

    **Source** of normalized entropy: He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook,
    section 3.
    """
    if not labels.size:
        return Quality(math.nan, math.nan, math.nan, math.nan)
    return _quality(
        auc(labels, scores), float(log_losses(labels, scores).mean()), float(labels.mean()), float(scores.mean())
    )


def _quality(area: float, loss: float, rate: float, predicted: float) -> Quality:
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate)) if 0 < rate < 1 else 0.0
    return Quality(area, loss, loss / entropy if entropy else math.nan, predicted / rate if rate else math.nan)


@dataclass(frozen=True, slots=True)
class Bin:
    """Examples of like scores.

    Attributes:
        predicted: Mean score.
        observed: Share of positives.
        examples: How many.
    """

    predicted: float
    observed: float
    examples: int


def reliability(
    labels: NDArray[np.float64], scores: NDArray[np.float64], bins: int = RELIABILITY_BINS
) -> tuple[Bin, ...]:
    """The reliability table: examples by rising score, in bins of about equally many.

    Equal scores are never parted, so there may be fewer bins.

    Args:
        labels: float64[n].
        scores: float64[n].
        bins: At most so many.

    **Source**: Niculescu-Mizil & Caruana 2005, Predicting Good Probabilities With Supervised Learning, section 2; with
    bins by quantiles.
    """
    if not labels.size:
        return ()
    edges = np.quantile(scores, np.arange(1, bins) / bins)
    place = np.searchsorted(edges, scores)
    return _table(np.bincount(place), np.bincount(place, scores), np.bincount(place, labels))


def _table(count: NDArray[Any], predicted: NDArray[Any], positive: NDArray[Any]) -> tuple[Bin, ...]:
    return tuple(
        Bin(float(p / n), float(y / n), int(n)) for n, p, y in zip(count, predicted, positive, strict=True) if n
    )


def calibration_error(table: Sequence[Bin]) -> float:
    """Mean distance of prediction and observation over the examples of a reliability table; NaN of none.

    **Source**: Naeini et al. 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning, section 2.
    """
    total = sum(bin.examples for bin in table)
    return sum(bin.examples * abs(bin.predicted - bin.observed) for bin in table) / total if total else math.nan


@dataclass(frozen=True, slots=True)
class SliceQuality:
    """How good the scores of one value's examples were.

    Attributes:
        id: The value's; None for all values that are not told apart.
        examples: How many.
        quality: Of their scores.
    """

    id: int | None
    examples: int
    quality: Quality


def by_value(
    ids: NDArray[np.int64], labels: NDArray[np.float64], scores: NDArray[np.float64], values: int
) -> list[SliceQuality]:
    """The quality of the most frequent values' scores, the most frequent first, then that of all others together.

    Args:
        ids: int64[n], the value of each example; :data:`UNNAMED` is always among the others.
        labels: float64[n].
        scores: float64[n].
        values: So many values are told apart.
    """
    found, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order[found[order] != UNNAMED][:values]
    group = np.full(found.size, kept.size)
    group[kept] = np.arange(kept.size)
    by_group = np.argsort(group[places], kind="stable")
    ends = np.cumsum(np.bincount(group[places], minlength=kept.size + 1))
    rows = []
    for g, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if end > start:
            part = by_group[start:end]
            key = int(found[kept[g]]) if g < kept.size else None
            rows.append(SliceQuality(key, int(end - start), quality(labels[part], scores[part])))
    return rows


class Progress:
    """The quality of one task's scores, over everything and over a window.

    Over everything the AUC is that of logits rounded to 1/512; over the window it is exact.

    Args:
        window: Examples of the window.
        slices: How many slices each example has a value of.
    """

    def __init__(self, window: int = 10_000, slices: int = 0) -> None:
        self.window = window
        self.count = 0
        self._loss = self._positive = self._predicted = 0.0
        self._bins = np.zeros((2, _BINS), dtype=np.int64)
        self._ring = np.empty((2, window), dtype=np.float64)
        self._ids = np.empty((slices, window), dtype=np.int64)

    def add(
        self, labels: NDArray[np.float32], scores: NDArray[np.float64], ids: NDArray[np.int64] | None = None
    ) -> None:
        """Adds labels float32[n] (NaN: left out), the scores float64[n] given before, and ids of slices int64[n, S]."""
        known = ~np.isnan(labels)
        y, p = labels[known].astype(np.float64), scores[known]
        if not y.size:
            return
        self._loss += float(log_losses(y, p).sum())
        self._positive += float(y.sum())
        self._predicted += float(p.sum())
        inner = np.clip(p, 1e-12, 1 - 1e-12)
        logits = np.log(inner) - np.log1p(-inner)
        places = np.clip((logits + _LOGIT_RANGE) * (_BINS / (2 * _LOGIT_RANGE)), 0, _BINS - 1).astype(np.int64)
        np.add.at(self._bins, ((y > 0.5).astype(np.int64), places), 1)
        tail = slice(max(0, y.size - self.window), None)
        at = (self.count + np.arange(y.size)[tail]) % self.window
        self._ring[0, at], self._ring[1, at] = y[tail], p[tail]
        if ids is not None:
            self._ids[:, at] = ids[known][tail].T
        self.count += y.size

    def total(self) -> Quality:
        """Over everything that was added."""
        if not self.count:
            return quality(self._ring[0, :0], self._ring[1, :0])
        negative, positive = self._bins
        below = np.cumsum(negative) - negative
        pairs = float(negative.sum()) * float(positive.sum())
        area = float((positive * (below + negative / 2.0)).sum()) / pairs if pairs else math.nan
        n = self.count
        return _quality(area, self._loss / n, self._positive / n, self._predicted / n)

    def recent(self) -> Quality:
        """Over the window."""
        used = min(self.count, self.window)
        return quality(self._ring[0, :used], self._ring[1, :used])

    def total_reliability(self, bins: int = RELIABILITY_BINS) -> tuple[Bin, ...]:
        """The reliability table over everything; scores as rounded as for the AUC, labels as 0 and 1."""
        held = np.flatnonzero(self._bins.any(0))
        positive = self._bins[1, held]
        count = self._bins[0, held] + positive
        ranks = np.cumsum(count) - count / 2.0
        place = (ranks * (bins / max(self.count, 1))).astype(np.int64)
        logits = (held + 0.5) * (2 * _LOGIT_RANGE / _BINS) - _LOGIT_RANGE
        return _table(
            np.bincount(place, count),
            np.bincount(place, count / (1.0 + np.exp(-logits))),
            np.bincount(place, positive),
        )

    def recent_reliability(self, bins: int = RELIABILITY_BINS) -> tuple[Bin, ...]:
        """The reliability table over the window."""
        used = min(self.count, self.window)
        return reliability(self._ring[0, :used], self._ring[1, :used], bins)

    def recent_by_value(self, slice_number: int, values: int) -> list[SliceQuality]:
        """The window's quality by the values of one slice, as :func:`by_value`."""
        used = min(self.count, self.window)
        return by_value(self._ids[slice_number, :used], self._ring[0, :used], self._ring[1, :used], values)
