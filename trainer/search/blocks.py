"""Frequency blocks: ranges of counts whose ids share one choice of dimensions. Block 0 holds the rarest."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def blocks_of(counts: NDArray[np.int64], bounds: Sequence[int]) -> NDArray[np.int64]:
    """The block of each id by its count, int64[n] -> int64[n], as a dimension plan with these bounds has it.

    >>> blocks_of(np.array([1, 8, 9, 64]), (8, 64)).tolist()
    [0, 1, 1, 2]
    """
    return np.searchsorted(np.asarray(bounds, dtype=np.int64), counts, side="right").astype(np.int64)


def log_bounds(counts: NDArray[np.int64], least: int) -> tuple[int, ...]:
    """Bounds at powers of two. A block that has too few ids is joined with the next rarer one.

    Args:
        counts: int64[n], how often each id is seen.
        least: Ids of a block, at least; where there are not twice as many in all, there is one block.

    >>> log_bounds(np.array([1, 1, 2, 3, 4, 5, 9]), least=2)
    (2, 4)
    """
    top = int(counts.max(initial=1))
    found: list[int] = []
    last = counts.size
    for bound in (1 << p for p in range(1, top.bit_length())):
        above = int((counts >= bound).sum())
        if above >= least and last - above >= least:
            found.append(bound)
            last = above
    return tuple(found)


def share_bounds(counts: NDArray[np.int64], shares: Sequence[float]) -> tuple[int, ...]:
    """Bounds that cut the ids, the most frequent first, into given shares. Ids of one count stay together.

    **Source**: Cheng et al. 2020 (arXiv 2006.04466), section 3.2, 'feature grouping by frequency'.

    Args:
        counts: int64[n].
        shares: Of each block, the most frequent first; they add up to 1.

    Raises:
        ValueError: If the shares do not add up to 1.

    >>> share_bounds(np.array([9, 8, 7, 1, 1, 1, 1, 1, 1, 1]), (0.1, 0.2, 0.7))
    (7, 9)
    """
    if abs(sum(shares) - 1.0) > 1e-6 or any(share <= 0 for share in shares):
        raise ValueError(f"shares: must be positive and add up to 1, got {tuple(shares)}")
    ordered = np.sort(counts)[::-1]
    ends = np.rint(np.cumsum(shares)[:-1] * counts.size).astype(int)
    bounds = {int(ordered[end - 1]) for end in ends if 0 < end < counts.size}
    return tuple(sorted(bound for bound in bounds if bound > int(counts.min(initial=0)) and bound >= 1))
