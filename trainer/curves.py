"""How the quality of scores went over a stream: the same figures over a window that moves along it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.validation import quality

_POINTS = 200
_LARGEST_WINDOW = 10_000
_SMALLEST_WINDOW = 200


@dataclass(frozen=True, slots=True)
class Curve:
    """One task's quality at P places of the stream, each over the window that ends there.

    Attributes:
        window: Labelled examples of a window.
        examples: int64[P], labelled examples up to and with the place.
        auc: float64[P], NaN where undefined, as all that follow.
        log_loss: float64[P].
        normalized_entropy: float64[P].
        calibration: float64[P].
    """

    window: int
    examples: NDArray[np.int64]
    auc: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    normalized_entropy: NDArray[np.float64]
    calibration: NDArray[np.float64]


def window_for(examples: int) -> int:
    """A tenth of a stream, but neither so few that chance rules nor more than the trainer's own window.

    >>> window_for(500), window_for(50_000), window_for(2_000_000)
    (200, 5000, 10000)
    """
    return min(_LARGEST_WINDOW, max(_SMALLEST_WINDOW, examples // 10))


def curve(labels: NDArray[np.float64], scores: NDArray[np.float64], window: int | None = None) -> Curve:
    """The curve of labels float64[n], none absent, and the scores float64[n] given before.

    Args:
        labels: Of the stream's examples in their order.
        scores: Likewise.
        window: Default: as :func:`window_for` says. The first place is where the first window is full, or the end.
    """
    size = window or window_for(labels.size)
    first = min(size, labels.size)
    ends = np.unique(np.linspace(first, labels.size, _POINTS).round().astype(np.int64)) if first else np.empty(0, int)
    rows = [quality(labels[max(0, end - size) : end], scores[max(0, end - size) : end]) for end in ends.tolist()]
    return Curve(
        size,
        ends,
        np.array([row.auc for row in rows], dtype=np.float64),
        np.array([row.log_loss for row in rows], dtype=np.float64),
        np.array([row.normalized_entropy for row in rows], dtype=np.float64),
        np.array([row.calibration for row in rows], dtype=np.float64),
    )
