"""Serving codecs: how a reader holds the vectors of its rows.

What stands in front of a vector (a linear weight, or means and variances) and whole rows of statistics and sequences
stay float32: they are few numbers, and each moves a score by itself. A strip begins with them, and then come, in whole
32-bit words,

======= ============================== ======================================================================
codec   vector of d numbers            error of a number v
======= ============================== ======================================================================
float32 d words                        0
float16 d half words                   at most abs(v) / 2^11, or 2^-25 below 2^-14; beyond ±65504 it is ±65504
int8    a word, the scale; d bytes     at most half the scale, which is the vector's largest abs(v) / 127; or 1e-42
======= ============================== ======================================================================

A number that is none becomes 0 in float16 and int8.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.slabs import RowArrays

Codec = Literal["float32", "float16", "int8"]
EXACT, HALF, BYTE = 0, 1, 2
KINDS: dict[str, int] = {name: kind for kind, name in enumerate(get_args(Codec))}
_LARGEST = 65504.0
_LARGEST_BYTES = np.float32(3.4e38)  # its scale times 127 is still a float32
_STEPS = 127


def vector_words(kind: int, dim: int) -> int:
    """32-bit words of a vector of `dim` numbers."""
    if kind == HALF:
        return (dim + 1) // 2
    if kind == BYTE:
        return 1 + (dim + 3) // 4 if dim else 0
    return dim


def encode(kind: int, values: NDArray[np.float32], lead: int) -> NDArray[np.uint32]:
    """Strips of some rows: float32[n, lead + d] -> uint32[n, words]."""
    exact = np.ascontiguousarray(values, dtype="<f4")
    if kind == EXACT:
        return exact.view("<u4")
    count, dim = len(values), values.shape[1] - lead
    vectors = np.nan_to_num(exact[:, lead:], nan=0.0, posinf=np.inf, neginf=-np.inf)
    words = np.zeros((count, lead + vector_words(kind, dim)), dtype="<u4")
    words[:, :lead] = exact[:, :lead].view("<u4")
    if kind == HALF:
        words.view("<f2")[:, 2 * lead : 2 * lead + dim] = np.clip(vectors, -_LARGEST, _LARGEST)
    elif dim:
        bounded = np.clip(vectors, -_LARGEST_BYTES, _LARGEST_BYTES)
        scales = np.abs(bounded).max(axis=1) / np.float32(_STEPS)
        words[:, lead] = scales.view("<u4")
        steps = np.rint(bounded / np.where(scales > 0, scales, np.float32(1.0))[:, None])
        first = 4 * (lead + 1)
        words.view("<i1")[:, first : first + dim] = np.clip(steps, -_STEPS, _STEPS)
    return words


@kernel(inline="always")
def half(bits: np.uint16) -> np.float32:
    """The float32 that 16 bits of a finite float16 stand for."""
    word = np.uint32(bits)
    shifted = np.uint32((word & np.uint32(0x7FFF)) << np.uint32(13))
    value = shifted.view(np.float32) * np.float32(2.0**112)  # moves the exponent, of subnormal numbers too
    signed: np.float32 = -value if word & np.uint32(0x8000) else value
    return signed


@kernel(inline="always")
def number(rows: RowArrays, kind: int | np.int64, at: int | np.int64, i: int | np.int64) -> np.float32:
    """Number i of the vector that begins at word `at`."""
    if kind == HALF:
        return np.float32(half(rows.halves[2 * at + i]))
    if kind == BYTE:
        return np.float32(rows.memory[at] * np.float32(rows.bytes[4 * (at + 1) + i]))
    return np.float32(rows.memory[at + i])
