"""Mini-batch aware regularisation: decay of the vectors that a batch holds, and of no others."""

import numpy as np
from numpy.typing import NDArray


def batch_aware(vectors: NDArray[np.float32], counts: NDArray[np.int64], strength: float) -> NDArray[np.float32]:
    """Gradient of the penalty on the vectors of a batch; summed over the batch it is what each id's row takes.

    The penalty of one occurrence is strength / 2 * |vector|^2 / n, n being how often its id was seen. So over a stream
    an id seen a thousand times decays no thousand times faster than one seen once, and a step costs no more than
    the rows that the batch touches anyway.

    Args:
        vectors: float32[B, F, K].
        counts: int64[B, F], sightings of each id so far; 0 counts as 1.
        strength: The paper's lambda.

    Returns:
        float32[B, F, K].

    **Source**: Zhou et al. 2018, Deep Interest Network (arXiv 1706.06978), section 5.1: equation 5 with its sum over
    the examples of a batch, which equation 6 approximates by one occurrence a batch. A stream has no total count
    of an id, so n is the count up to now.

    >>> batch_aware(np.ones((1, 2, 1), np.float32), np.array([[1, 10]]), 0.5).ravel().tolist()
    [0.5, 0.05000000074505806]
    """
    share = (strength / np.maximum(counts, 1)).astype(np.float32)
    return vectors * share[:, :, None]
