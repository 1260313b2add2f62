"""The soft selection: how its weights learn, and which dimensions stay. Plain NumPy, for a live trainer as well.

Each vector e of a row in block l is used as alpha_l * e, number by number, with alpha in [0, 1].

**Source**: Cheng et al. 2020, Differentiable Neural Input Search (arXiv 2006.04466).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_store.plan import TablePlan

_TINY = 1e-30


def alpha_gradient(
    blocks: NDArray[np.int64], gradients: NDArray[np.float32], values: NDArray[np.float32], count: int
) -> NDArray[np.float64]:
    """The gradient of a loss in alpha, by block: the sum of g * e over what a batch looked up in it.

    **Source**: arXiv 2006.04466, section 3.1, by the chain rule of the soft selection layer.

    Args:
        blocks: int64[n], block of each looked-up row; -1 for one that takes no part.
        gradients: float32[n, K], d loss / d (alpha * e).
        values: float32[n, K], e, before alpha.
        count: L, blocks.

    Returns:
        float64[L, K].
    """
    found = np.zeros((count, values.shape[1]), dtype=np.float64)
    part = blocks >= 0
    np.add.at(found, blocks[part], gradients[part].astype(np.float64) * values[part])
    return found


def step(
    alpha: NDArray[np.float32],
    gradient: NDArray[np.float64],
    rate: float,
    penalty: float,
    floor: float = 0.0,
    largest: float = 1.0,
) -> NDArray[np.float32]:
    """One step of projected gradient descent: alpha - rate * (g / mean_k |g| + penalty), clipped.

    Each block's gradient is divided by its mean size, or rare blocks would hardly move. On aligned axes one number may
    have nearly all of a block's gradient, so what comes of the division is bounded. The penalty, the slope of an L1
    term, comes after that, so it weighs alike for all blocks. A block without a gradient stays as it is.

    **Source**: arXiv 2006.04466, section 3.2, 'gradient normalisation', with the bounds of its equation 3.

    Args:
        alpha: float32[L, K].
        gradient: float64[L, K].
        rate: Of the descent.
        penalty: By how much of a mean gradient alpha is drawn to 0.
        floor: The lower bound; above 0, a dimension can come back.
        largest: Bound of the divided gradient. The paper has none: infinity.

    Returns:
        float32[L, K].

    >>> step(np.ones((1, 2), np.float32), np.array([[3.0, 1.0]]), rate=0.25, penalty=0.5).tolist()
    [[0.625, 0.75]]
    """
    mean = np.abs(gradient).mean(axis=1, keepdims=True)
    bounded = np.clip(gradient / (mean + _TINY), -largest, largest)
    moved = np.clip(alpha - rate * (bounded + penalty), floor, 1.0)
    return np.where(mean > 0, moved, alpha).astype(np.float32)


def keep_within(worth: NDArray[np.float64], rows: NDArray[np.int64], budget: int) -> NDArray[np.bool_]:
    """Which dimensions stay: those of most worth per parameter, as many as a budget allows.

    Every block keeps its best, whatever the budget.

    **Source**: arXiv 2006.04466, section 3.3, 'pruning'; here one threshold on worth per parameter holds for all
    blocks, and pruning is by whole (block, dimension), so that a mask a block says all.

    Args:
        worth: float64[L, K], such as the summed squares of what a dimension adds to the logits.
        rows: int64[L], rows of each block: what a dimension costs.
        budget: Parameters that may stay.

    Returns:
        bool[L, K].

    >>> keep_within(np.array([[4.0, 1.0], [9.0, 6.0]]), np.array([1, 3]), budget=5).tolist()
    [[True, True], [True, False]]
    """
    blocks, dim = worth.shape
    kept = np.zeros((blocks, dim), dtype=np.bool_)
    kept[np.arange(blocks), worth.argmax(axis=1)] = True
    left = budget - int(rows.sum())
    density = worth / np.maximum(rows, 1)[:, None]
    for place in np.argsort(-density, axis=None, kind="stable").tolist():
        block, k = divmod(place, dim)
        if not kept[block, k] and rows[block] <= left:
            kept[block, k] = True
            left -= int(rows[block])
    return kept


def keep_above(alpha: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Which dimensions alpha itself leaves: those above a threshold, and the largest of each block: bool[L, K].

    **Source**: arXiv 2006.04466, section 3.3.
    """
    kept = alpha > threshold
    kept[np.arange(len(alpha)), alpha.argmax(axis=1)] = True
    return kept


def to_plan(bounds: Sequence[int], kept: NDArray[np.bool_], matrix: NDArray[np.float64] | None = None) -> TablePlan:
    """The dimension plan of one table.

    Neighbouring blocks that keep the same become one.

    Args:
        bounds: Counts at which blocks begin, without the first.
        kept: bool[L, K].
        matrix: float64[K, K], what undoes a rotation of the axes.
    """
    masks = [tuple(np.flatnonzero(row).tolist()) for row in kept]
    begins = [b for b in range(1, len(masks)) if masks[b] != masks[b - 1]]
    undo = None if matrix is None else tuple(tuple(float(x) for x in row) for row in matrix)
    return TablePlan(tuple(bounds[b - 1] for b in begins), tuple(masks[b] for b in [0, *begins]), undo)


def largest_within(losses: Sequence[float], limit: float) -> int:
    """The place of the last of some losses, by falling size of model, up to which none exceeds a limit; else the first.

    >>> largest_within([0.0, 0.0004, 0.0008, 0.002, 0.0009], limit=0.001)
    2
    """
    last = 0
    for place, loss in enumerate(losses):
        if math.isnan(loss) or loss > limit:
            break
        last = place
    return last
