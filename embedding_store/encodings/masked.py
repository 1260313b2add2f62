"""What a dimension search gives: each block keeps some axes, and its rows are packed."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.encoding import Counts
from embedding_store.encodings.id_rows import IdRows
from embedding_store.plan import TablePlan
from embedding_store.serving import Codec
from embedding_store.settings import TableSettings


class Masked:
    """A dimension plan in force. One mask a block, so that no index of single numbers eats up what it saves.

    With a matrix Q in the plan, which undoes the rotation in which the axes were chosen, a vector is Q times the
    unpacked row; Q is not learned.

    **Source**: Cheng et al. 2020, Differentiable Neural Input Search (arXiv 2006.04466).

    Args:
        table: Its K, optimizer and initial values.
        seed: Of the initial values.
        plan: What each block keeps.
        counts: Fixed counts; None: a row moves into another block as its id is learned from more often.
    """

    def __init__(self, table: TableSettings, seed: int, plan: TablePlan, counts: Counts | None = None) -> None:
        self._rows = IdRows(table, seed, plan, counts)
        self._matrix = None if plan.matrix is None else np.array(plan.matrix, dtype=np.float32)

    def blocks_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The block of each id: int64[N] -> int64[N]."""
        return self._rows.blocks_of(ids)

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        unpacked = self._rows.vectors(ids, codec)
        return unpacked if self._matrix is None else unpacked @ self._matrix.T

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there."""
        self._rows.learn(ids, gradients if self._matrix is None else gradients @ self._matrix)

    def parameters(self) -> int:
        """See there; the matrix, which says where the axes lie, counts as bytes only."""
        return self._rows.numbers()

    def bytes(self, codec: Codec = "float32") -> int:
        """See there."""
        return self._rows.bytes(codec) + (0 if self._matrix is None else self._matrix.nbytes)
