"""What a row's numbers are after a reader's codec."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.serving import BYTE, EXACT, KINDS, Codec, encode


def rounded(values: NDArray[np.float32], codec: Codec) -> NDArray[np.float32]:
    """Vectors that went through a codec, row by row: float32[N, d] -> float32[N, d]. Zeros stay zero.

    >>> rounded(np.array([[2.0, 0.004, -1.0]], dtype=np.float32), "int8").round(4).tolist()[0][:2]
    [2.0, 0.0]
    """
    kind, dim = KINDS[codec], values.shape[1]
    if kind == EXACT or not values.size:
        return values
    words = encode(kind, values, 0)
    if kind == BYTE:
        scales = words[:, :1].view("<f4")
        exact: NDArray[np.float32] = (scales * words.view("<i1")[:, 4 : 4 + dim]).astype(np.float32)
        return exact
    halves: NDArray[np.float32] = words.view("<f2")[:, :dim].astype(np.float32)
    return halves
