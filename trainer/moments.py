"""Running mean and variance of each number, and numbers standardised by them."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel

_CLIP = 8.0


@kernel()
def standardise(numbers: NDArray[np.float64], moments: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """Numbers less their mean, by their standard deviation, at most 8 of them; 0 where missing.

    Args:
        numbers: float64[B, M], NaN where missing.
        moments: float64[M, 3], count, mean and sum of squared deviations.
        out: float32[B, M], filled.
    """
    for m in range(moments.shape[0]):
        count, mean, squares = moments[m, 0], moments[m, 1], moments[m, 2]
        deviation = np.sqrt(squares / max(count, 1.0))
        if deviation <= 0.0:
            deviation = 1.0
        for b in range(numbers.shape[0]):
            x = (numbers[b, m] - mean) / deviation
            out[b, m] = 0.0 if count < 2 or np.isnan(x) else min(max(x, -_CLIP), _CLIP)


@kernel()
def observe(numbers: NDArray[np.float64], moments: NDArray[np.float64]) -> None:
    """Adds a batch to the moments.

    Args:
        numbers: float64[B, M]; what is not finite is left out.
        moments: float64[M, 3], changed.

    **Source**: Chan et al. 1979, the parallel form of Welford's update.
    """
    for m in range(moments.shape[0]):
        count, total = 0, 0.0
        for b in range(numbers.shape[0]):
            if np.isfinite(numbers[b, m]):
                count += 1
                total += numbers[b, m]
        if count == 0:
            continue
        mean, squares = total / count, 0.0
        for b in range(numbers.shape[0]):
            if np.isfinite(numbers[b, m]):
                squares += (numbers[b, m] - mean) ** 2
        n = moments[m, 0]
        delta = mean - moments[m, 1]
        share = count / (n + count)
        moments[m, 2] += squares + delta * delta * n * share
        moments[m, 1] += delta * share
        moments[m, 0] = n + count
