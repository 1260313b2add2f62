"""Alignment: rotating a table's axes, so that 'how many dimensions a block needs' has an answer. Plain NumPy.

A model of inner products does not change when all vectors of a table are rotated and what they meet is rotated back. So
which single axes a block needs is a matter of chance, unless the axes are chosen first: here as the principal axes of
what the blocks use.
"""

import numpy as np
from numpy.typing import NDArray


def second_moments(blocks: NDArray[np.int64], values: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """The sum of e eᵀ over the rows of each block.

    Args:
        blocks: int64[n]; -1 for a row that takes no part.
        values: float32[n, K].
        count: L.

    Returns:
        float64[L, K, K].
    """
    some = [values[blocks == block].astype(np.float64) for block in range(count)]
    return np.stack([rows.T @ rows for rows in some])


def rotation(use: NDArray[np.float64], gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """The principal axes of what the blocks of a table use.

    With g the gradient of a logit in a vector and G = E[g gᵀ], a row e moves the logit by about the length of G^½ e.
    So each block's moments are taken of G^½ e, brought to trace 1 (or frequent blocks would outweigh all others), and
    added up. The eigenvectors of the sum are the axes. The rows themselves are only rotated, never stretched.

    Args:
        use: float64[L, K, K], of each block's rows, see :func:`second_moments`.
        gradients: float64[K, K], G, up to a factor.

    Returns:
        float64[K, K], orthogonal: its columns are the axes, the most used first. Rows become e @ R, gradients g @ R;
        the vector is R @ row. Each axis' largest number is positive, so that equal moments give equal axes.
    """
    root = _root(gradients)
    total = np.zeros_like(root)
    for moments in use:
        used = root @ moments @ root
        trace = float(np.trace(used))
        if trace > 0:
            total += used / trace
    strengths, axes = np.linalg.eigh(total)
    found = axes[:, np.argsort(-strengths, kind="stable")]
    largest = np.abs(found).argmax(axis=0)
    signs = np.where(found[largest, np.arange(found.shape[1])] < 0, -1.0, 1.0)
    return np.asarray(found * signs)


def _root(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root of a matrix without negative eigenvalues."""
    strengths, axes = np.linalg.eigh((moments + moments.T) / 2)
    return np.asarray((axes * np.sqrt(np.maximum(strengths, 0.0))) @ axes.T)
