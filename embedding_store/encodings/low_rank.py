"""A table as the product of a narrow table and one small matrix."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.id_rows import IdRows
from embedding_store.encodings.projections import Projections
from embedding_store.plan import TablePlan
from embedding_store.serving import Codec
from embedding_store.settings import TableSettings


class LowRank:
    """Rows of r numbers times a learned r x K factor that all ids share.

    **Source**: Lan et al. 2020, ALBERT (arXiv 1909.11942), section 3.1, 'factorized embedding parameterization'.

    Args:
        table: Its K, optimizer and initial values.
        seed: Of the initial values.
        rank: r.
    """

    def __init__(self, table: TableSettings, seed: int, rank: int) -> None:
        self._rows = IdRows(table, seed, TablePlan((), (tuple(range(rank)),)))
        self._factor = Projections(table, seed, [rank])

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        return self._factor.apply(self._rows.vectors(ids, codec), np.zeros(ids.size, dtype=np.int64))

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there. Rows and factor each take their step from what the other was before."""
        one = np.zeros(ids.size, dtype=np.int64)
        self._rows.learn(ids, self._factor.learn(self._rows.vectors(ids), one, gradients))

    def parameters(self) -> int:
        """See there."""
        return self._rows.numbers() + self._factor.numbers

    def bytes(self, codec: Codec = "float32") -> int:
        """See there."""
        return self._rows.bytes(codec) + 4 * self._factor.numbers
