"""Layouts: which numbers the rows of a table hold, by how often their id was seen.

A row holds its linear weight, then the numbers of its vector that its layout keeps, then the optimizer's state.
Without a plan a table has one layout that keeps all. A plan gives each frequency block (a range of counts) a layout
of its own, so a cold id may hold 2 numbers and a hot one 16. Layouts are never renumbered: a row says under which one
it was written, and is read as the present plan has it, whether it was re-encoded already or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from embedding_store.errors import BadBytes
from embedding_store.kernel import kernel
from embedding_store.serving import EXACT, KINDS, Codec, vector_words
from embedding_store.settings import TableSettings


class LayoutArrays(NamedTuple):
    """What the kernels see.

    A frame is a choice of axes: the matrix of a plan, which turns the numbers of a row into the vector that it stands
    for. Rows of another frame than the present one are turned as they are read.

    Attributes:
        leads: int64[L], numbers of a row in front of its vector.
        dims: int64[L], how many numbers of the vector a layout keeps.
        kept: int64[L, K], which ones, in rising order; -1 behind them.
        places: int64[L, K], where a number of the vector lies in a row; -1 if it is not kept.
        widths: int64[L], words of a row's strip, state included.
        tables: int64[L], table of each layout; -1 for one that is not here.
        kinds: int64[L], how the vector is held, a place in serving.KINDS.
        frames: int64[L], frame of each layout; 0 for the vector's own axes.
        turns: float32[M, M, K, K], turns[f, g] takes the numbers of frame f to those of frame g.
        starts: int64[T + 1], blocks of each table.
        bounds: int64[·], count from which a block holds; 0 for a table's first.
        blocks: int64[·], layout of each block.
    """

    leads: NDArray[np.int64]
    dims: NDArray[np.int64]
    kept: NDArray[np.int64]
    places: NDArray[np.int64]
    widths: NDArray[np.int64]
    tables: NDArray[np.int64]
    kinds: NDArray[np.int64]
    frames: NDArray[np.int64]
    turns: NDArray[np.float32]
    starts: NDArray[np.int64]
    bounds: NDArray[np.int64]
    blocks: NDArray[np.int64]


_WORST_CONDITION = 1e6
Matrix = tuple[tuple[float, ...], ...]


@kernel(inline="always")
def layout_of(layouts: LayoutArrays, table: int | np.int64, count: int | np.int64) -> int:
    """The layout that the present plan gives to a row of a table that was seen so often."""
    block = layouts.starts[table]
    last = layouts.starts[table + 1] - 1
    while block < last and count >= layouts.bounds[block + 1]:
        block += 1
    return int(layouts.blocks[block])


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A dimension plan of one table.

    Attributes:
        bounds: Counts at which a new block begins, rising; the first block begins at 0 and is not listed.
        kept: Numbers of the vector that each block keeps, rising; one more than bounds.
        matrix: K x K, applied to a row's numbers to rebuild the vector; None for none. Rows that were there before are
            turned, so that what all K numbers stand for stays as it was.
    """

    bounds: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]
    matrix: Matrix | None = None

    def faults(self, dim: int) -> list[str]:
        """What is wrong with it for vectors of `dim` numbers, one sentence each."""
        found = []
        if len(self.kept) != len(self.bounds) + 1:
            found.append(
                f"`kept` must list {len(self.bounds) + 1} blocks, one more than `bounds`, got {len(self.kept)}"
            )
        if list(self.bounds) != sorted(set(self.bounds)) or any(b < 1 for b in self.bounds):
            found.append("`bounds` must rise, from 1 on")
        for place, kept in enumerate(self.kept):
            if list(kept) != sorted(set(kept)) or any(not 0 <= k < dim for k in kept) or not kept:
                found.append(f"`kept[{place}]` must name at least one number from 0 to {dim - 1}, in rising order")
        if self.matrix is not None and (len(self.matrix) != dim or any(len(row) != dim for row in self.matrix)):
            found.append(f"`matrix` must be {dim} x {dim}")
        elif self.matrix is not None and not np.linalg.cond(np.array(self.matrix)) < _WORST_CONDITION:
            found.append("`matrix` must have an inverse")
        return found


class Known(NamedTuple):
    """A layout.

    Attributes:
        table: Name of its table.
        kept: Numbers of the vector that it keeps, rising.
        frame: Number of its frame; 0 for none.
    """

    table: str
    kept: tuple[int, ...]
    frame: int = 0


@dataclass(slots=True)
class Layouts:
    """All layouts of a shard, and the present plan of each table.

    Args:
        tables: Settings by number.
        learning: Whether rows hold optimizer state.
        codec: How a reader holds the vectors of weights.
    """

    tables: Sequence[TableSettings]
    learning: bool
    codec: Codec = "float32"
    known: list[Known] = field(default_factory=list)
    frames: list[Matrix] = field(default_factory=list)
    plans: dict[str, TablePlan] = field(default_factory=dict)

    def arrays(self) -> LayoutArrays:
        """What the kernels take, for the present plans. Registers the layouts that are new."""
        width = max(1, *(table.dim for table in self.tables))
        starts, bounds, blocks = [0], [], []
        for table in self.tables:
            plan = self.plans.get(table.name) or TablePlan((), (tuple(range(table.dim)),))
            bounds += [0, *plan.bounds]
            frame = self._frame(plan.matrix)
            blocks += [self._number(Known(table.name, kept, frame)) for kept in plan.kept]
            starts.append(len(blocks))
        settings = {table.name: table for table in self.tables}
        order = {table.name: t for t, table in enumerate(self.tables)}
        kept = np.full((len(self.known), width), -1, dtype=np.int64)
        places = np.full((len(self.known), width), -1, dtype=np.int64)
        dims = np.array([len(layout.kept) for layout in self.known], dtype=np.int64)
        frames = np.array([layout.frame for layout in self.known], dtype=np.int64)
        widths = np.zeros(len(self.known), dtype=np.int64)
        leads = np.zeros(len(self.known), dtype=np.int64)
        tables = np.full(len(self.known), -1, dtype=np.int64)
        kinds = np.zeros(len(self.known), dtype=np.int64)
        for number, (name, numbers, _) in enumerate(self.known):
            if name not in settings or (numbers and numbers[-1] >= settings[name].dim):
                continue  # of a table that was dropped since, or made anew with another width
            kept[number, : len(numbers)] = numbers
            places[number, list(numbers)] = range(len(numbers))
            table = settings[name]
            tables[number] = order[name]
            leads[number] = table.lead
            kinds[number] = KINDS[self.codec] if table.kind == "weights" else EXACT
            state = table.state_width(len(numbers)) if self.learning else 0
            widths[number] = max(2, table.lead + vector_words(int(kinds[number]), len(numbers)) + state)
        return LayoutArrays(
            leads, dims, kept, places, widths, tables, kinds, frames, self._turns(),
            np.array(starts, dtype=np.int64), np.array(bounds, dtype=np.int64), np.array(blocks, dtype=np.int64),
        )  # fmt: skip

    def _number(self, layout: Known) -> int:
        if layout not in self.known:
            self.known.append(layout)
        return self.known.index(layout)

    def _frame(self, matrix: Matrix | None) -> int:
        if matrix is None:
            return 0
        if matrix not in self.frames:
            self.frames.append(matrix)
        return 1 + self.frames.index(matrix)

    def _turns(self) -> NDArray[np.float32]:
        """Every frame into every other: float32[M, M, K, K]."""
        width = max((len(matrix) for matrix in self.frames), default=1)
        matrices = np.tile(np.eye(width), (1 + len(self.frames), 1, 1))
        for number, matrix in enumerate(self.frames, 1):
            matrices[number, : len(matrix), : len(matrix)] = matrix
        into = np.linalg.inv(matrices)
        return np.asarray(into[None] @ matrices[:, None], dtype=np.float32)

    def holds(self, table: str, layout: int, dim: int) -> bool:
        """Whether a row that keeps so many numbers can be of a table and a layout."""
        if layout >= len(self.known):
            return False
        name, kept, _ = self.known[layout]
        width = next(t.dim for t in self.tables if t.name == table)
        return name == table and len(kept) == dim and all(k < width for k in kept[-1:])

    def to_json(self) -> bytes:
        """Layouts and plans, for a commit."""
        value: dict[str, Any] = {
            "layouts": [layout[: 3 if layout.frame else 2] for layout in self.known],
            "plans": {
                name: {"bounds": plan.bounds, "kept": plan.kept, "matrix": plan.matrix}
                for name, plan in self.plans.items()
            },
        }
        if self.frames:
            value["frames"] = self.frames
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

    def load_json(self, data: bytes) -> None:
        """Takes what :meth:`to_json` gave.

        Layouts known already stay known, since rows of a later commit may be here. Plans of tables that are not here,
        or that were made anew with another width since, are left out.

        Raises:
            BadBytes: If a plan cannot be read.
        """
        value = orjson.loads(data)
        layouts = [Known(name, tuple(kept), *frame) for name, kept, *frame in value["layouts"]]
        frames = [_matrix(rows) for rows in value.get("frames", ())]
        if layouts != self.known[: len(layouts)] or frames != self.frames[: len(frames)]:
            self.known, self.frames = layouts, frames
        dims = {table.name: table.dim for table in self.tables}
        self.plans = {}
        for name, plan in value["plans"].items():
            if name in dims and (read := read_plan(plan, name)) and not read.faults(dims[name]):
                self.plans[name] = read


def parse_plan(value: Mapping[str, Any], table: str, dim: int) -> TablePlan:
    """A plan from JSON: ``{"bounds": [8, 64], "kept": [[0], [0, 1], [0, 1, 2, 3]]}``, perhaps with a ``matrix``.

    Raises:
        BadBytes: Naming every fault.
    """
    plan = read_plan(value, table)
    faults = plan.faults(dim)
    if faults:
        raise BadBytes(f"the plan of table {table!r}: " + "; ".join(faults))
    return plan


def read_plan(value: Mapping[str, Any], table: str) -> TablePlan:
    """A plan from JSON, whatever its table is like.

    Raises:
        BadBytes: If it is no plan.
    """
    try:
        matrix = value.get("matrix")
        return TablePlan(
            tuple(int(b) for b in value["bounds"]),
            tuple(tuple(int(k) for k in kept) for kept in value["kept"]),
            None if matrix is None else _matrix(matrix),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadBytes(f"the plan of table {table!r} cannot be read: {error!r}") from None


def _matrix(rows: Sequence[Sequence[float]]) -> Matrix:
    return tuple(tuple(float(x) for x in row) for row in rows)
