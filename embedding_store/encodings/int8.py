"""Post-training int8: any encoding, its rows rounded to bytes with a scale each."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.encoding import Encoding
from embedding_store.serving import Codec


class Int8:
    """What a reader with the codec int8 has of a trained encoding; projections stay float32.

    It may go on learning: the exact numbers take the steps (the straight-through rule), and only what is read is
    rounded.

    **Sources**: Guan et al. 2019, Post-Training 4-bit Quantization on Embedding Tables (arXiv 1911.02079), its
    row-wise 8 bits, here symmetric as in :mod:`embedding_store.serving`; straight through: Bengio et al. 2013 (arXiv
    1308.3432).

    Args:
        of: What was trained.
    """

    def __init__(self, of: Encoding) -> None:
        self._of = of

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "int8") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        return self._of.vectors(ids, codec)

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there."""
        self._of.learn(ids, gradients)

    def parameters(self) -> int:
        """See there."""
        return self._of.parameters()

    def bytes(self, codec: Codec = "int8") -> int:
        """See there."""
        return self._of.bytes(codec)
