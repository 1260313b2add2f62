"""Rows of an encoding, by id: the store's own strips, layouts and optimizers, without commits, expiry or cold rows."""

import numpy as np
from numpy.typing import NDArray

from embedding_store import optimizers
from embedding_store.encodings.encoding import INDEX_BYTES, Counts
from embedding_store.encodings.rounding import rounded
from embedding_store.index import HashIndex
from embedding_store.initial import initial_value
from embedding_store.kernel import kernel
from embedding_store.lookup import TableArrays
from embedding_store.optimizers import STD, Summed
from embedding_store.plan import LayoutArrays, Layouts, TablePlan, layout_of
from embedding_store.row_set import table_arrays
from embedding_store.serving import KINDS, Codec, vector_words
from embedding_store.settings import TableSettings
from embedding_store.slabs import RowArrays, Rows
from embedding_store.strips import make_row, reencode

_FEW_BLOCKS = 256
_MOST_SEEN = np.iinfo(np.uint32).max


@kernel()
def _read(
    rows: RowArrays, layouts: LayoutArrays, tables: TableArrays, ids: NDArray[np.int64], found: NDArray[np.int64],
    counts: NDArray[np.int64], out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Vectors at full width: int64[N] ids, their rows (-1 for none) and counts -> float32[N, K], zeroed before."""
    for i in range(ids.size):
        if found[i] < 0:
            layout = layout_of(layouts, 0, counts[i])
            for n in range(layouts.dims[layout]):
                k = layouts.kept[layout, n]
                out[i, k] = np.float32(initial_value(tables.seeds[0], ids[i], k, tables.knobs[0, STD]))
            continue
        header = rows.headers[found[i]]
        written = np.int64(header.layout)
        at = np.int64(header.at) + layouts.leads[written]
        for n in range(layouts.dims[written]):
            out[i, layouts.kept[written, n]] = rows.memory[at + n]


@kernel()
def _settle(rows: RowArrays, layouts: LayoutArrays, tables: TableArrays, some: NDArray[np.int64]) -> None:
    """Moves those of some rows whose count is another block's by now."""
    for i in range(some.size):
        header = rows.headers[some[i]]
        layout = layout_of(layouts, 0, np.int64(header.count))
        if layout != np.int64(header.layout):
            reencode(rows, layouts, tables, some[i], layout, True)


@kernel()
def _make(
    rows: RowArrays, layouts: LayoutArrays, tables: TableArrays, ids: NDArray[np.int64], made: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:  # fmt: skip
    """Sets new rows to what their ids begin with: int64[n] each."""
    for i in range(ids.size):
        make_row(rows, layouts, tables, made[i], 0, ids[i], True)
        rows.headers[made[i]].count = counts[i]
    _settle(rows, layouts, tables, made)


class IdRows:
    """A row for each id that was learned from, as wide as the block of its count has it.

    Args:
        table: Its width, optimizer and initial values.
        seed: Of the initial values, which are those of the store's own rows.
        plan: Which numbers each block keeps; its matrix is the caller's business.
        counts: How often each id is seen in all; None: as often as it was learned from so far, so that a row moves
            into a wider block as its id is seen more.
    """

    def __init__(self, table: TableSettings, seed: int, plan: TablePlan, counts: Counts | None = None) -> None:
        # a row of the store leads with its linear weight; a Gaussian one, never learned here, has no state
        settings = table.model_copy(update={"linear": "gaussian", "tasks": 1})
        layouts = Layouts((settings,), learning=True, plans={settings.name: plan})
        self.dim = table.dim
        self._bounds = np.array(plan.bounds, dtype=np.int64)
        self._layouts = layouts.arrays()
        self._tables = table_arrays((settings,), seed)
        self._counts = counts
        self._index = HashIndex(1, first_row=1)
        self._rows = Rows()
        self._widest = int(self._layouts.widths.max())
        self._rows.reserve(2, self._widest)
        make_row(self._rows.arrays, self._layouts, self._tables, 0, 0, 0, True)  # what a new row's lead is taken from

    def __len__(self) -> int:
        return len(self._index)

    def blocks_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The block of each id: int64[N] -> int64[N]."""
        return np.searchsorted(self._bounds, self._counts_of(ids, self._index.lookup(0, ids)), side="right")

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """As :meth:`Encoding.vectors`; numbers that a block does not keep are 0."""
        found = self._index.lookup(0, ids)
        out = np.zeros((ids.size, self.dim), dtype=np.float32)
        _read(self._rows.arrays, self._layouts, self._tables, ids, found, self._counts_of(ids, found), out)
        return rounded(out, codec)

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """As :meth:`Encoding.learn`; gradients of numbers that a block does not keep count for nothing."""
        if not ids.size:
            return
        found = self._found_or_made(ids)
        batch = Summed(
            np.empty(ids.size, dtype=np.int64), np.empty((ids.size, 1 + self.dim), dtype=np.float32)
        )  # fmt: skip
        led = np.zeros((ids.size, 1, 1 + self.dim), dtype=np.float32)
        led[:, 0, 1:] = gradients
        nothing = np.zeros(ids.size, dtype=np.bool_)
        each = np.arange(ids.size + 1, dtype=np.int64)
        n = optimizers.sum_gradients(self._rows.arrays, each, found, found, nothing, nothing[:1], led, batch)
        optimizers.step(self._rows.arrays, self._layouts, self._tables, batch, n, np.empty(n, dtype=np.int64))
        if self._counts is None and self._bounds.size:
            self._see(found, batch.distinct[:n])

    def numbers(self) -> int:
        """Numbers of all rows."""
        return int(self._rows_of_layouts() @ self._layouts.dims)

    def bytes_a_row(self, codec: Codec) -> int:
        """Bytes of a row at full width in a codec, without an index."""
        return 4 * vector_words(KINDS[codec], self.dim)

    def bytes(self, codec: Codec) -> int:
        """Bytes of all rows in a codec, of their index, and of what says which numbers a row holds."""
        words = [vector_words(KINDS[codec], int(dim)) for dim in self._layouts.dims]
        size = 4 * int(self._rows_of_layouts() @ np.array(words, dtype=np.int64)) + INDEX_BYTES * len(self)
        if self._bounds.size:
            blocks = self._bounds.size + 1
            size += len(self) * (1 if blocks <= _FEW_BLOCKS else 2) + blocks * (4 + (self.dim + 7) // 8)
        return size

    def _see(self, found: NDArray[np.int64], distinct: NDArray[np.int64]) -> None:
        """Counts a batch's sightings: rows int64[N], those that differ int64[n] in the order of their slots."""
        headers = self._rows.headers
        seen = np.bincount(headers["slot"][found].astype(np.int64), minlength=distinct.size)
        headers["count"][distinct] = np.minimum(headers["count"][distinct] + seen, _MOST_SEEN)
        self._rows.reserve(self._index.rows_end, distinct.size * self._widest)
        _settle(self._rows.arrays, self._layouts, self._tables, distinct)

    def _rows_of_layouts(self) -> NDArray[np.int64]:
        of_rows = self._rows.headers["layout"][1 : self._index.rows_end]
        return np.bincount(of_rows, minlength=self._layouts.dims.size)

    def _counts_of(self, ids: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._counts is not None:
            return np.minimum(self._counts(ids), _MOST_SEEN)
        return np.where(found < 0, 0, self._rows.headers["count"][found].astype(np.int64))

    def _found_or_made(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        found = self._index.lookup(0, ids)
        new = np.unique(ids[found < 0])
        if new.size:
            counts = self._counts_of(new, np.full(new.size, -1))
            made = self._index.lookup_or_insert(0, new)
            self._rows.reserve(self._index.rows_end, 2 * new.size * self._widest)
            _make(self._rows.arrays, self._layouts, self._tables, new, made, counts)
            found = self._index.lookup(0, ids)
        return found
