"""Learned matrices from the few numbers of a row to the K of its vector."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.id_rows import IdRows
from embedding_store.plan import TablePlan
from embedding_store.settings import TableSettings


class Projections:
    """A d_b x K matrix P_b for each block b; a vector is e P_b, so its parts learn from g P_bᵀ and eᵀ g.

    A matrix begins normal with deviation 1 / sqrt(K): on average e P is as long as e. Each of its rows is learned as a
    row of the table is, by the same optimizer. Where d_b = K there is none, and the vector is e.

    **Source**: Ginart et al. 2019, Mixed Dimension Embeddings (arXiv 1909.11810), section 3.

    Args:
        table: Its K and optimizer.
        seed: Of the initial values.
        dims: d_b of each block.
    """

    def __init__(self, table: TableSettings, seed: int, dims: Sequence[int]) -> None:
        changes = {"name": f"{table.name}.projections", "init_std": table.dim**-0.5}
        whole = TablePlan((), (tuple(range(table.dim)),))
        self._rows = IdRows(table.model_copy(update=changes), seed, whole)
        self._narrow = [(block, dim) for block, dim in enumerate(dims) if dim < table.dim]
        self._places = np.array([b * table.dim + i for b, d in self._narrow for i in range(d)], dtype=np.int64)
        self.numbers = self._places.size * table.dim

    def apply(self, values: NDArray[np.float32], blocks: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows, the first d_b of whose numbers count: float32[N, K], blocks int64[N] -> float32[N, K]."""
        out, matrices, first = values.copy(), self._rows.vectors(self._places), 0
        for block, dim in self._narrow:
            some = np.flatnonzero(blocks == block)
            out[some] = values[some, :dim] @ matrices[first : first + dim]
            first += dim
        return out

    def learn(
        self, values: NDArray[np.float32], blocks: NDArray[np.int64], gradients: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """One step of every matrix that some rows went through, from what :meth:`apply` took and its gradients.

        Returns:
            float32[N, K], the rows' own gradients.
        """
        out, matrices, first = gradients.copy(), self._rows.vectors(self._places), 0
        places, steps = [], []
        for block, dim in self._narrow:
            some, part = np.flatnonzero(blocks == block), slice(first, first + dim)
            first += dim
            if some.size:
                places.append(self._places[part])
                steps.append(values[some, :dim].T @ gradients[some])
                out[some] = 0
                out[some, :dim] = gradients[some] @ matrices[part].T
        if places:
            self._rows.learn(np.concatenate(places), np.concatenate(steps))
        return out
