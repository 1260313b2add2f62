"""Values of a new row: they depend on the seed, the table, the id and the place in the vector alone."""

import math

import numpy as np

from embedding_store.kernel import kernel
from embedding_store.table import mix


@kernel(inline="always")
def initial_value(seed: np.uint64, key: int, place: int, std: float) -> float:
    """Number `place` of a new vector: normal with mean 0 and deviation `std`.

    **Source**: Box & Muller 1958; two numbers of the vector share one draw of two uniforms.

    Args:
        seed: Of the table.
        key: The id.
        place: From 0.
        std: Standard deviation.
    """
    x = mix(mix(np.uint64(key) ^ seed) + np.uint64(place >> 1) * np.uint64(0x9E3779B97F4A7C15))
    a = (np.float64(x >> np.uint64(32)) + 1.0) / 4294967297.0
    b = np.float64(x & np.uint64(0xFFFFFFFF)) / 4294967296.0
    radius = std * math.sqrt(-2.0 * math.log(a))
    if place & 1:
        return radius * math.sin(2.0 * math.pi * b)
    return radius * math.cos(2.0 * math.pi * b)
