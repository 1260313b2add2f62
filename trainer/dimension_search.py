"""Differentiable neural input search: which dimensions each frequency block of each table needs.

min over alpha of L_validation(Θ*(alpha), alpha), where Θ* minimises L_training(Θ, alpha): arXiv 2006.04466, equation 3.
After a warm-up the axes are aligned (see :mod:`trainer.search.alignment`), then rows and network learn on training
batches and alpha on validation batches, in turns. What each dimension adds to the logits says which are worth keeping.

**Source**: Cheng, Shen, Huang: Differentiable Neural Input Search for Recommender Systems, 2020 (arXiv 2006.04466). The
alignment is Dolmen's own.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from embedding_store.plan import TablePlan
from trainer.definition import Definition
from trainer.errors import SearchError
from trainer.search import alignment, selection
from trainer.search.blocks import blocks_of, log_bounds, share_bounds
from trainer.search.matrices import Matrices
from trainer.search.network import Network, take
from trainer.search.recipe import Recipe
from trainer.search.steps import Steps, contributions
from trainer.search.training import train, validation_lines, weigh

_BY_RECIPE: Mapping[str, tuple[int, ...]] = MappingProxyType({})

__all__ = ["Blocks", "Found", "Recipe", "cut", "search"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The frequency blocks of all tables, numbered one after another.

    Attributes:
        of_rows: int64[R], the block of each row; a cold row is in its table's first.
        rows: int64[B], rows of each block, cold rows left out.
        tables: The blocks of each table, the rarest first.
        bounds: By table, counts at which its second and later blocks begin.
    """

    of_rows: NDArray[np.int64]
    rows: NDArray[np.int64]
    tables: dict[str, slice]
    bounds: dict[str, tuple[int, ...]]


def cut(data: Matrices, recipe: Recipe, bounds: Mapping[str, tuple[int, ...]] = _BY_RECIPE) -> Blocks:
    """The blocks of a data set, by how often ids are seen in its training part.

    Args:
        data: Of the counts.
        recipe: How blocks are made.
        bounds: Of tables whose blocks are given.
    """
    of_rows = np.zeros(data.rows, dtype=np.int64)
    tables: dict[str, slice] = {}
    found: dict[str, tuple[int, ...]] = {}
    first = 0
    for table in data.tables:
        counts = data.counts[table.first + 1 : table.last]
        made = share_bounds(counts, recipe.shares) if recipe.shares else log_bounds(counts, recipe.least)
        made = bounds.get(table.name, made)
        of_rows[table.first] = first
        of_rows[table.first + 1 : table.last] = first + blocks_of(counts, made)
        found[table.name] = made
        tables[table.name] = slice(first, first + len(made) + 1)
        first += len(made) + 1
    rows = np.bincount(of_rows, minlength=first)
    rows[[part.start for part in tables.values()]] -= 1
    return Blocks(of_rows, rows, tables, found)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave.

    Attributes:
        data: What was searched.
        recipe: How.
        blocks: Of the data.
        alpha: float32[B, K], where it ended.
        worth: float64[B, K], what :func:`trainer.search.selection.keep_within` ranks by.
        steps: The network, alpha not folded in and nothing pruned, and its optimizers' state: as the search left it,
            or, with `recipe.best`, as it was best on validation on the way, with the alpha of that moment.
        passes: What it cost, in examples by those of the training part.
        seconds: What it took.
    """

    data: Matrices
    recipe: Recipe
    blocks: Blocks
    alpha: NDArray[np.float32]
    worth: NDArray[np.float64]
    steps: Steps
    passes: float
    seconds: float

    @property
    def network(self) -> Network:
        """The network as the search left it."""
        return self.steps.network

    @property
    def matrices(self) -> dict[str, NDArray[np.float64]]:
        """By table, what undoes its alignment: float64[K, K]. Empty if axes were not aligned."""
        return self.network.matrices

    def kept(self, parameters: float) -> NDArray[np.bool_]:
        """Which dimensions stay within a share of the numbers at full width: bool[B, K].

        Raises:
            SearchError: If the share is above 1, or less than one number a row.
        """
        if not 1 / self.data.dim <= parameters <= 1:
            raise SearchError(
                f"parameters: every row keeps at least one of {self.data.dim} numbers, so the share must lie between "
                f"{1 / self.data.dim:g} and 1, got {parameters}"
            )
        budget = int(parameters * int(self.blocks.rows.sum()) * self.data.dim)
        return selection.keep_within(self.worth, self.blocks.rows, budget)

    def chosen(self) -> NDArray[np.bool_]:
        """Which dimensions alpha itself leaves, whatever they cost: bool[B, K]."""
        return selection.keep_above(self.alpha, self.recipe.threshold)

    def plans(self, kept: NDArray[np.bool_]) -> dict[str, TablePlan]:
        """The dimension plan of each table, as the store takes it."""
        return {
            name: selection.to_plan(self.blocks.bounds[name], kept[part], self.matrices.get(name))
            for name, part in self.blocks.tables.items()
        }


def search(
    definition: Definition,
    data: Matrices,
    recipe: Recipe,
    tables: Sequence[str] | None = None,
    bounds: Mapping[str, tuple[int, ...]] = _BY_RECIPE,
) -> Found:
    """Searches a data set. Seeded: equal arguments give equal results on one machine.

    Args:
        definition: The model.
        data: Its examples.
        recipe: How.
        tables: Those whose dimensions are searched, the others staying whole; None: all.
        bounds: Of tables whose blocks are given, see :func:`cut`.

    Raises:
        SearchError: If there is no such table.
    """
    start = time.perf_counter()
    names = [table.name for table in data.tables]
    for name in tables or ():
        if name not in names:
            raise SearchError(f"tables: there is no {name!r}; there are {', '.join(names)}")
    blocks = cut(data, recipe, bounds)
    network = Network(definition, data, blocks.of_rows, recipe.seed)
    steps = Steps(network, recipe.optimizer, recipe.rate, recipe.network_rate)
    rng = np.random.default_rng(recipe.seed)
    passes = train(steps, data, recipe, recipe.warm_passes, rng)
    some = _measuring_lines(data)
    if recipe.align:
        steps.rotate(_axes(network, data, blocks, some, tables))
        passes += some.size / data.parts[0]
    searched = np.zeros((len(blocks.rows), 1), dtype=np.bool_)
    for name in names if tables is None else tables:
        searched[blocks.tables[name]] = True
    alpha, cost = weigh(steps, data, recipe, searched, rng)
    passes += cost
    worth = _worth(network, data, blocks, recipe, some)
    worth[~searched[:, 0]] = np.inf
    passes += some.size / data.parts[0]
    return Found(
        data, recipe, blocks, alpha, worth, steps, passes, time.perf_counter() - start
    )  # fmt: skip


def _measuring_lines(data: Matrices) -> NDArray[np.int64]:
    """Of what alpha learns from, evenly spaced, at most a sixteenth of a pass."""
    upper, _ = validation_lines(data)
    most = max(1, data.parts[0] // 16)
    return upper[np.linspace(0, upper.size - 1, min(most, upper.size)).astype(np.int64)]


def _axes(
    network: Network, data: Matrices, blocks: Blocks, lines: NDArray[np.int64], tables: Sequence[str] | None
) -> dict[str, NDArray[np.float64]]:
    """The rotation of each searched table, from its rows and the logits' gradients on some examples."""
    moments = torch.zeros(len(blocks.rows), data.dim, data.dim)
    for first in range(0, lines.size, 1024):
        of_slots, gradient, _ = contributions(network, take(data, lines[first : first + 1024]))
        flat = gradient.reshape(-1, data.dim)
        where = of_slots.reshape(-1)
        for block in sorted(set(where.tolist())):
            some = flat[where == block]
            moments[block] += some.T @ some
    found = {}
    for table in data.tables:
        if tables is not None and table.name not in tables:
            continue
        part = blocks.tables[table.name]
        own = slice(table.first + 1, table.last)
        use = alignment.second_moments(
            blocks.of_rows[own] - part.start, network.rows[own].numpy(), part.stop - part.start
        )  # fmt: skip
        found[table.name] = alignment.rotation(use, moments[part].sum(0).numpy().astype(np.float64))
    return found


def _worth(
    network: Network, data: Matrices, blocks: Blocks, recipe: Recipe, lines: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What each dimension is worth: float64[B, K]."""
    if recipe.rank == "magnitude":
        # mean size, times rows, since it is ranked by row
        sizes = torch.zeros_like(network.alpha).index_add(0, network.blocks, network.rows.abs())
        return np.asarray((sizes * network.alpha).numpy(), dtype=np.float64)
    total = torch.zeros(network.alpha.shape, dtype=torch.float64)
    for first in range(0, lines.size, 1024):
        of_slots, gradient, selected = contributions(network, take(data, lines[first : first + 1024]))
        squares = (gradient * selected).square().reshape(-1, data.dim).to(torch.float64)
        total.index_add_(0, of_slots.reshape(-1), squares)
    return total.numpy()
