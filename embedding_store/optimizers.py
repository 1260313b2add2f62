"""Row-wise Adagrad over the rows that a batch touched.

Gradients are summed over the batch, duplicates first, then each distinct row takes one step. The linear weight and
the vector have an accumulator each:

    state += mean(g²);  w -= rate · g / √state

**Source**: Duchi et al. 2011, Adaptive Subgradient Methods; one accumulator a row as in Naumov et al. 2019 (DLRM).
"""

import numba
import numpy as np
from numpy.typing import NDArray

STATE_WIDTH = 2
"""float32 numbers of optimizer state in a row: accumulator of the linear weight, accumulator of the vector."""


@numba.njit(nogil=True, cache=True)
def sum_gradients(
    headers: NDArray[np.void],
    offsets: NDArray[np.int64],
    scored: NDArray[np.int64],
    updated: NDArray[np.int64],
    missing: NDArray[np.bool_],
    means: NDArray[np.bool_],
    gradients: NDArray[np.float32],
    distinct: NDArray[np.int64],
    sums: NDArray[np.float32],
) -> int:
    """Sums the gradients of each distinct row, over all of its occurrences in the batch.

    An occurrence that was scored by the cold row gives its gradient to the cold row and, unless the value was
    missing, to the id's own row too.

    Args:
        headers: HEADER[rows]; `slot` is scratch.
        offsets: int64[B * F + 1], occurrences of each (example, field).
        scored: int64[N], the row that scored each occurrence.
        updated: int64[N], the id's own row.
        missing: bool[N].
        means: bool[F], whether the field's rows are averaged.
        gradients: float32[B, F, 1 + K], with respect to the pooled rows.
        distinct: int64[N + T], filled with the distinct rows.
        sums: float32[N + T, 1 + K], filled with their gradients.

    Returns:
        U, the number of distinct rows.
    """
    fields = means.size
    width = gradients.shape[2]
    flat = gradients.reshape(-1, width)
    found = 0
    for s in range(offsets.size - 1):
        first, last = offsets[s], offsets[s + 1]
        share = np.float32(1.0 / (last - first)) if means[s % fields] and last - first > 1 else np.float32(1.0)
        for j in range(first, last):
            for second in range(2):
                row = updated[j] if second else scored[j]
                if second and (missing[j] or row == scored[j]):
                    continue
                u = int(headers[row].slot)
                if u >= found or distinct[u] != row:
                    u = found
                    found += 1
                    distinct[u] = row
                    headers[row].slot = u
                    for k in range(width):
                        sums[u, k] = share * flat[s, k]
                else:
                    for k in range(width):
                        sums[u, k] += share * flat[s, k]
    return found


@numba.njit(nogil=True, cache=True, error_model="numpy")
def adagrad(
    data: NDArray[np.float32],
    headers: NDArray[np.void],
    distinct: NDArray[np.int64],
    sums: NDArray[np.float32],
    dims: NDArray[np.int64],
    rates: NDArray[np.float32],
) -> None:
    """One step of each distinct row.

    Args:
        data: float32[rows, 1 + K + 2].
        headers: HEADER[rows].
        distinct: int64[U].
        sums: float32[≥ U, 1 + K], gradients.
        dims: int64[T], the vectors' dimension by table.
        rates: float32[T, 2], learning rates of the linear weight and of the vector.
    """
    width = sums.shape[1]
    for u in range(distinct.size):
        row = distinct[u]
        table = headers[row].table
        g = sums[u, 0]
        state = data[row, width] + g * g
        data[row, width] = state
        data[row, 0] -= rates[table, 0] * g / np.sqrt(state)
        square = np.float32(0.0)
        dim = dims[table]
        for k in range(1, dim + 1):
            square += sums[u, k] * sums[u, k]
        state = data[row, width + 1] + square / np.float32(dim)
        data[row, width + 1] = state
        step = rates[table, 1] / np.sqrt(state)
        for k in range(1, dim + 1):
            data[row, k] -= step * sums[u, k]
