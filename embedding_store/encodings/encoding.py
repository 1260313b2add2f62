"""What every encoding is: a way to hold one table.

Sizes are counted alike for all, as a reader holds them: the numbers of every row in the reader's codec, every matrix
in float32, what finds a row by its id, and what says which numbers a row holds. Optimizer state is nobody's: only a
trainer has it. The parts are

* an index entry, :data:`INDEX_BYTES`, for each id that has a row of its own; a hash needs none;
* a byte a row that says its block, where there are several;
* a mask of K bits and a bound of 4 bytes a block, where there are several.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_store.serving import Codec

INDEX_BYTES = 29
"""Bytes of the index an id: those of :class:`~embedding_store.index.HashIndex` on average over 84 sizes from 50,000 to
3 million ids, each 5 % larger than the last; at any one size 23 to 35."""

Counts = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""How often ids were seen: int64[N] -> int64[N]."""


class Encoding(Protocol):
    """One table of vectors of K numbers. Seeded: two of them that learned the same are equal, bit for bit."""

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """The vectors of some ids. Changes nothing; an id that was never learned from has its initial values.

        Args:
            ids: int64[N].
            codec: What a row's numbers have been through.

        Returns:
            float32[N, K].
        """
        ...

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """One step of every row behind some ids, their gradients summed over the batch first.

        Args:
            ids: int64[N], perhaps several times the same.
            gradients: float32[N, K], with respect to what :meth:`vectors` gives now.
        """
        ...

    def parameters(self) -> int:
        """How many numbers are learned, projections included."""
        ...

    def bytes(self, codec: Codec = "float32") -> int:
        """Bytes of what a reader holds whose rows are in a codec."""
        ...


def footprint(encodings: Iterable[Encoding]) -> tuple[int, int]:
    """Parameters and bytes of several tables; memory that they share counts once."""
    some = list(encodings)
    return sum(e.parameters() for e in some), sum(e.bytes() for e in some)
