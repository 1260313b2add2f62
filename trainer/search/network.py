"""The model of a search: the definition's own network over rows in one tensor, with the soft selection between.

The rows of a batch are taken out once each, so that everything by row (selection, rotation, optimizer) costs by
distinct rows, and single values only gather.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.definition import Definition
from trainer.models import build_model
from trainer.models.inputs import Inputs, Shape
from trainer.search.matrices import Matrices


class Examples(NamedTuple):
    """b examples, their rows taken out once each.

    Attributes:
        distinct: int64[u], rows of the examples.
        places: int64[b, S], where in `distinct` each slot's row is.
        shares: float32[b, S].
        numbers: float32[b, M].
        labels: float32[b].
    """

    distinct: Tensor
    places: Tensor
    shares: Tensor
    numbers: Tensor
    labels: Tensor


def take(data: Matrices, lines: NDArray[np.int64]) -> Examples:
    """Some examples of a data set, int64[b]."""
    distinct, places = np.unique(data.ids[lines], return_inverse=True)
    return Examples(
        torch.from_numpy(distinct.astype(np.int64)),
        torch.from_numpy(places.reshape(len(lines), -1)),
        torch.from_numpy(data.shares[lines]),
        torch.from_numpy(data.numbers[lines]),
        torch.from_numpy(data.labels[lines]),
    )


class Network:
    """The model, its rows, and what stands between.

    Args:
        definition: Names the model; deviation of new rows by table.
        data: How many rows there are of each table, and the base rate.
        blocks: int64[R], the block of each row.
        seed: Of all that is drawn.

    Attributes:
        module: The definition's model.
        tables: Whose the rows are.
        rows: float32[R, K].
        linear: float32[R], linear weights; None where no table has any.
        alpha: float32[B, K], by which rows are multiplied; all 1 at first.
        matrices: By table, float64[K, K]: vector = matrix @ (alpha * row). Set by :meth:`rotate`.
    """

    def __init__(self, definition: Definition, data: Matrices, blocks: NDArray[np.int64], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        settings = {table.name: table for table in definition.tables}
        self.rows = torch.zeros(data.rows, data.dim)
        for table in data.tables:
            own = self.rows[table.first + 1 : table.last]  # the cold row begins at zero
            own.normal_(0.0, max(settings[table.name].init_std, 1e-4), generator=generator)
        self.tables = data.tables
        self._trainable = torch.zeros(data.rows, dtype=torch.bool)
        for table in data.tables:
            self._trainable[table.first : table.last] = table.linear
        self.linear = torch.zeros(data.rows) if bool(self._trainable.any()) else None
        self.blocks = torch.from_numpy(blocks)
        self.alpha = torch.ones(int(blocks.max()) + 1, data.dim)
        self.matrices: dict[str, NDArray[np.float64]] = {}
        self._rotations: dict[str, Tensor] = {}
        self._slots = torch.from_numpy(data.slots) if data.slots.size != data.fields else None
        self._fields = data.fields
        lasts = np.array([table.last for table in data.tables])
        self._slot_tables = [data.tables[t].name for t in np.searchsorted(lasts, data.ids[0], side="right").tolist()]
        shape = Shape(data.fields, data.dim, data.numbers.shape[1], 1, definition.model.hidden)
        self.module = build_model(definition.model_copy(update={"seed": seed}), shape)
        rate = float(np.clip(data.labels[data.part("training")].mean(), 1e-6, 1 - 1e-6))
        with torch.no_grad():
            self.module.bias.fill_(np.log(rate / (1 - rate)))

    def vectors(self, distinct: Tensor, values: Tensor, alpha: Tensor) -> Tensor:
        """What rows give to the model: soft selection, then the rotation back.

        **Source**: arXiv 2006.04466, section 3.1, the soft selection layer: each number times its alpha.

        Args:
            distinct: int64[u], rising.
            values: float32[u, K], the rows' numbers.
            alpha: float32[B, K].

        Returns:
            float32[u, K].
        """
        selected = values * alpha[self.blocks[distinct]]
        if not self._rotations:
            return selected
        ends = torch.searchsorted(distinct, torch.tensor([table.last for table in self.tables])).tolist()
        parts, first = [], 0
        for table, end in zip(self.tables, ends, strict=True):
            part = selected[first:end]
            parts.append(part @ self._rotations[table.name].T if table.name in self._rotations else part)
            first = end
        return torch.cat(parts)

    def turned(self, gradients: Tensor) -> Tensor:
        """Gradients in vectors of slots, float32[b, S, K], as gradients in the selected numbers of their rows."""
        if not self._rotations:
            return gradients
        turned = gradients.clone()
        for s, name in enumerate(self._slot_tables):
            if name in self._rotations:
                turned[:, s] = gradients[:, s] @ self._rotations[name]
        return turned

    def pooled(self, slots: Tensor, shares: Tensor) -> Tensor:
        """float32[b, S, K] of slots -> float32[b, F, K] of fields."""
        if self._slots is None:
            return slots
        out = slots.new_zeros(slots.shape[0], self._fields, slots.shape[2])
        return out.index_add(1, self._slots, slots * shares[:, :, None])

    def logits(self, examples: Examples, slots: Tensor, linear: Tensor | None) -> Tensor:
        """float32[b], from the vector of each slot, float32[b, S, K], and the distinct rows' linear weights."""
        vectors = self.pooled(slots, examples.shares)
        weights = vectors.new_zeros(vectors.shape[:2])
        if linear is not None:
            usable = linear * self._trainable[examples.distinct]
            weights = self.pooled(usable[examples.places][:, :, None], examples.shares)[:, :, 0]
        return torch.as_tensor(self.module(Inputs(weights, vectors, examples.numbers))[:, 0])

    def forward(self, examples: Examples, values: Tensor, linear: Tensor | None, alpha: Tensor) -> Tensor:
        """Logits float32[b] from the distinct rows' numbers, their linear weights, and alpha."""
        vectors = self.vectors(examples.distinct, values, alpha)
        return self.logits(examples, vectors[examples.places], linear)

    def scores(self, data: Matrices, lines: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of some examples as everything is now: int64[n] -> float32[n]."""
        found = [np.empty(0, dtype=np.float32)]
        with torch.no_grad():
            for first in range(0, lines.size, 8192):
                examples = take(data, lines[first : first + 8192])
                linear = None if self.linear is None else self.linear[examples.distinct]
                found.append(self.forward(examples, self.rows[examples.distinct], linear, self.alpha).numpy())
        return np.concatenate(found)

    def rotate(self, matrices: Mapping[str, NDArray[np.float64]]) -> None:
        """Turns the axes of some tables; nothing that the model gives changes, where alpha is 1.

        Args:
            matrices: Orthogonal, float64[K, K], by table, see :func:`trainer.search.alignment.rotation`.
        """
        for table in self.tables:
            if table.name not in matrices:
                continue
            turn = matrices[table.name]
            own = slice(table.first, table.last)
            self.rows[own] = self.rows[own] @ torch.from_numpy(turn.astype(np.float32))
            before = self.matrices.get(table.name)
            self.matrices[table.name] = turn if before is None else before @ turn
            self._rotations[table.name] = torch.from_numpy(self.matrices[table.name].astype(np.float32))

    def fold(self, kept: NDArray[np.bool_]) -> None:
        """Multiplies alpha into the rows and drops what is not kept: bool[B, K] becomes alpha, as 0 and 1.

        **Source**: arXiv 2006.04466, section 3.3: alpha goes into the rows, then pruning.
        """
        mask = torch.from_numpy(kept.astype(np.float32))
        self.rows *= (self.alpha * mask)[self.blocks]
        self.alpha = mask

    def copy_state(self) -> "State":
        """All that learns, as it is now."""
        linear = None if self.linear is None else self.linear.clone()
        return State(
            self.rows.clone(), linear, self.alpha.clone(), {k: v.clone() for k, v in self.module.state_dict().items()}
        )

    def load_state(self, state: "State") -> None:
        """Takes what :meth:`copy_state` gave, in place."""
        self.rows.copy_(state.rows)
        if self.linear is not None and state.linear is not None:
            self.linear.copy_(state.linear)
        self.alpha = state.alpha.clone()
        self.module.load_state_dict(state.dense)


class State(NamedTuple):
    """What a network has learned; its matrices stay as they are."""

    rows: Tensor
    linear: Tensor | None
    alpha: Tensor
    dense: dict[str, Tensor]
