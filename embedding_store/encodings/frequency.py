"""Dimensions by a rule: the more often ids of a block are seen, the wider their rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.encoding import Counts
from embedding_store.encodings.id_rows import IdRows
from embedding_store.encodings.projections import Projections
from embedding_store.plan import TablePlan
from embedding_store.serving import Codec
from embedding_store.settings import TableSettings


def frequency_dims(bounds: Sequence[int], largest: int, power: float) -> tuple[int, ...]:
    """The rule: d_b = largest * (popularity of block b / that of the last) ^ power, rounded, at least 1.

    A block is as popular as the count at which it begins; the first begins at 1.

    **Source**: Ginart et al. 2019, Mixed Dimension Embeddings (arXiv 1909.11810), algorithm 1; its exponent.

    >>> frequency_dims((10, 100, 1000), largest=16, power=0.3)
    (2, 4, 8, 16)
    """
    begins = np.array([1, *bounds], dtype=np.float64)
    dims = np.rint(largest * (begins / begins[-1]) ** power).astype(int)
    return tuple(np.maximum(1, dims).tolist())


def frequency_plan(bounds: Sequence[int], largest: int, power: float) -> TablePlan:
    """The rule as a dimension plan: each block keeps the first axes. What a live table takes."""
    dims = frequency_dims(bounds, largest, power)
    return TablePlan(tuple(bounds), tuple(tuple(range(d)) for d in dims))


class Frequency:
    """Mixed dimensions: block b holds rows of d_b numbers and a learned d_b x K projection, none where d_b = K.

    Without projections, the rule is :class:`~embedding_store.encodings.masked.Masked` by :func:`frequency_plan`.

    Args:
        table: Its K, optimizer and initial values.
        seed: Of the initial values.
        plan: By the rule.
        counts: Fixed: a row that moved into another block would have to be solved for anew under its projection.
    """

    def __init__(self, table: TableSettings, seed: int, plan: TablePlan, counts: Counts) -> None:
        self._rows = IdRows(table, seed, plan, counts)
        self._projections = Projections(table, seed, [len(kept) for kept in plan.kept])

    def blocks_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The block of each id: int64[N] -> int64[N]."""
        return self._rows.blocks_of(ids)

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        return self._projections.apply(self._rows.vectors(ids, codec), self._rows.blocks_of(ids))

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there. Rows and projections each take their step from what the other was before."""
        of_rows = self._projections.learn(self._rows.vectors(ids), self._rows.blocks_of(ids), gradients)
        self._rows.learn(ids, of_rows)

    def parameters(self) -> int:
        """See there."""
        return self._rows.numbers() + self._projections.numbers

    def bytes(self, codec: Codec = "float32") -> int:
        """See there."""
        return self._rows.bytes(codec) + 4 * self._projections.numbers
