"""One width for all ids: what a plain table holds."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.id_rows import IdRows
from embedding_store.plan import TablePlan
from embedding_store.serving import Codec
from embedding_store.settings import TableSettings


class Uniform:
    """The first d of K axes, and zeros behind: the very table of a model whose width is d.

    With a learned d x K projection instead it is :class:`~embedding_store.encodings.low_rank.LowRank`.

    Args:
        table: Its K, optimizer and initial values.
        seed: Of the initial values.
        dim: d.
    """

    def __init__(self, table: TableSettings, seed: int, dim: int) -> None:
        self._rows = IdRows(table, seed, TablePlan((), (tuple(range(dim)),)))

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        return self._rows.vectors(ids, codec)

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there."""
        self._rows.learn(ids, gradients)

    def parameters(self) -> int:
        """See there."""
        return self._rows.numbers()

    def bytes(self, codec: Codec = "float32") -> int:
        """See there."""
        return self._rows.bytes(codec)
