"""What one owner holds: the rows of all tables, found by id, scored, learned from, expired.

A batch's ids come as occurrences: B examples of F fields, (example b, field f) owning the occurrences `offsets[b * F
+ f]` to `offsets[b * F + f + 1]`, at least one. Row t is the cold row of table t; an id without a row, or a missing
value, scores as it.
"""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from embedding_store import codec, optimizers
from embedding_store.codec import Block
from embedding_store.lookup import Occurrences, gather, lookup
from embedding_store.settings import TableSettings
from embedding_store.sightings import expired_rows, touch, upsert
from embedding_store.slabs import Slab
from embedding_store.table import HashIndex

NEVER_MS = 1 << 62
_NONE = np.empty(0, dtype=np.int64)


class Shard:
    """The rows of all tables, in memory. Not thread-safe.

    Args:
        tables: Settings by table, in a fixed order; a table's number is its place here.
        seed: Of the initial values.
        learning: False for a reader, whose rows have no optimizer state.

    Attributes:
        clock_ms: Highest event time learned from, ms since the epoch.
        counts: int64[T], rows of each table, cold rows not counted, expired ones that were not swept yet included.
        admitted: int64[T], ids that got a row here.
        expired: int64[T], rows that expired here.
    """

    def __init__(self, tables: Sequence[TableSettings], seed: int, learning: bool = True) -> None:
        self.tables = tuple(tables)
        self.number = {table.name: t for t, table in enumerate(self.tables)}
        self.dim = max(table.dim for table in self.tables)
        self.learning = learning
        self.clock_ms = 0
        self.counts = np.zeros(len(self.tables), dtype=np.int64)
        self.admitted = np.zeros(len(self.tables), dtype=np.int64)
        self.expired = np.zeros(len(self.tables), dtype=np.int64)
        count = len(self.tables)
        self.index = HashIndex(count, first_row=count)
        self.slab = Slab(1 + self.dim + (optimizers.STATE_WIDTH if learning else 0))
        self.slab.reserve(2 * count)
        self._dims = np.array([t.dim for t in self.tables], dtype=np.int64)
        self._expire_ms = np.array([t.expire_after or NEVER_MS for t in self.tables], dtype=np.int64)
        self._rates = np.array([(t.linear_learning_rate, t.learning_rate) for t in self.tables], dtype=np.float32)
        self._starts = np.array([(t.init_std, t.initial_accumulator) for t in self.tables], dtype=np.float64)
        self._seeds = np.array([xxhash.xxh3_64_intdigest(t.name.encode(), seed) for t in self.tables], dtype=np.uint64)
        self._dirty = np.empty(1 << 16, dtype=np.int64)
        self._n_dirty = np.zeros(1, dtype=np.int64)
        self._gone = [_NONE] * count
        self._sweep = count
        self.seq = 1
        for t in range(count):
            self._make_cold(t)

    def _make_cold(self, table: int) -> None:
        self.slab.headers[table] = (0, 0, 0, 0, 0, table, 0)
        self.slab.data[table] = 0.0
        if self.learning:
            self.slab.data[table, -2:] = self._starts[table, 1]

    # Scoring

    def lookup(self, batch: Occurrences, fields: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row that scores each occurrence: int64[N]. Changes nothing.

        Args:
            batch: The ids.
            fields: int64[F], the table of each field.
        """
        rows = np.empty(batch.ids.size, dtype=np.int64)
        lookup(
            self.index.arrays, self.slab.headers, batch.ids, batch.missing, batch.offsets, fields, self._expire_ms,
            self.clock_ms, rows,
        )  # fmt: skip
        return rows

    def gather(self, rows: NDArray[np.int64], batch: Occurrences, means: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Pooled rows of each field: float32[B, F, 1 + K]; first the linear weight, then the vector.

        Args:
            rows: int64[N], as `lookup` gave them.
            batch: The ids.
            means: bool[F], whether a field's rows are averaged rather than summed.
        """
        out = np.empty((batch.offsets.size - 1, 1 + self.dim), dtype=np.float32)
        gather(self.slab.data, rows, batch.offsets, means, out)
        return out.reshape(-1, means.size, 1 + self.dim)

    # Learning

    def learn(
        self,
        batch: Occurrences,
        scored: NDArray[np.int64],
        gradients: NDArray[np.float32],
        fields: NDArray[np.int64],
        means: NDArray[np.bool_],
        times_ms: NDArray[np.int64],
    ) -> None:
        """Counts the sightings, gives new ids their rows, and takes one optimizer step with every row that was touched.

        Args:
            batch: The ids.
            scored: int64[N], as `lookup` gave them for this batch.
            gradients: float32[B, F, 1 + K] of the loss with respect to what `gather` gave, summed over the batch.
            fields: int64[F].
            means: bool[F].
            times_ms: int64[B], event time of each example.
        """
        size = batch.ids.size
        self.slab.reserve(self.index.rows_end + size)
        self._reserve_dirty(2 * size)
        rows = np.full(size, -1, dtype=np.int64)
        done = 0
        while True:
            done = touch(
                self.index.arrays, self.slab.headers, self.slab.data, batch.ids, batch.missing, batch.offsets, fields,
                times_ms, self._expire_ms, self.clock_ms, self._seeds, self._dims, self._starts, self.seq,
                self._dirty, self._n_dirty, scored, rows, self.counts, self.admitted, self.expired, done,
            )  # fmt: skip
            if done == batch.offsets.size - 1:
                break
            self.index.grow()
        distinct = np.empty(size + len(self.tables), dtype=np.int64)
        sums = np.empty((distinct.size, 1 + self.dim), dtype=np.float32)
        found = optimizers.sum_gradients(
            self.slab.headers, batch.offsets, scored, rows, batch.missing, means, gradients, distinct, sums
        )
        optimizers.adagrad(self.slab.data, self.slab.headers, distinct[:found], sums, self._dims, self._rates)
        self.clock_ms = max(self.clock_ms, int(times_ms.max()))

    def _reserve_dirty(self, more: int) -> None:
        if self._n_dirty[0] + more > self._dirty.size:
            self._dirty = np.concatenate([self._dirty, np.empty(self._dirty.size + more, dtype=np.int64)])

    # What a commit takes

    def sweep(self, rows: int) -> None:
        """Removes the expired among the next so many rows; the sweep goes round, so repeated calls reach every row."""
        first = self._sweep if self._sweep < self.index.rows_end else len(self.tables)
        last = min(first + rows, self.index.rows_end)
        self._sweep = last
        found = np.empty(max(0, last - first), dtype=np.int64)
        n = expired_rows(self.slab.headers, first, last, self._expire_ms, self.clock_ms, found)
        headers = self.slab.headers[found[:n]]
        for t in np.unique(headers["table"]).tolist():
            ids = headers["id"][headers["table"] == t].astype(np.int64)
            self.remove(t, ids)
            self._gone[t] = np.concatenate([self._gone[t], ids])
            self.expired[t] += ids.size

    def take_changes(self) -> tuple[list[Block], dict[str, NDArray[np.int64]]]:
        """Rows changed and ids gone since the last call.

        What is gone comes before what changed: an id may be in both.
        """
        dirty = np.unique(self._dirty[: self._n_dirty[0]])
        headers = self.slab.headers
        live = dirty[(headers["live"][dirty] == 1) | (dirty < len(self.tables))]
        tables = headers["table"][live]
        blocks = [self.block(t, live[tables == t]) for t in np.unique(tables).tolist()]
        gone = {self.tables[t].name: ids for t, ids in enumerate(self._gone) if ids.size}
        self._n_dirty[0] = 0
        self._gone = [_NONE] * len(self.tables)
        self.seq += 1
        return blocks, gone

    def block(self, table: int, rows: NDArray[np.int64]) -> Block:
        """Some rows of one table as the codec's entries, in the order given."""
        dim = self.tables[table].dim
        headers = self.slab.headers[rows]
        entries = np.zeros(rows.size, dtype=codec.entry_dtype(dim, optimizers.STATE_WIDTH if self.learning else 0))
        entries["version"] = codec.VERSION
        entries["flags"] = np.where(rows < len(self.tables), codec.COLD, 0)
        entries["dim"] = dim
        for name in ("id", "seq", "last_seen", "count"):
            entries[name] = headers[name]
        data = self.slab.data[rows]
        entries["values"] = data[:, : 1 + dim]
        if self.learning:
            entries["state"] = data[:, 1 + self.dim :]
        return Block(self.tables[table].name, entries)

    # What a commit brings

    def apply(self, block: Block) -> None:
        """Sets the rows of a block. Idempotent.

        A table that is not among this shard's is left out. Of rows of another width, the numbers that both have are
        kept.
        """
        table = self.number.get(block.table)
        if table is None or not block.entries.size:
            return
        entries = block.entries
        cold = entries["flags"] & codec.COLD != 0
        rows = np.full(entries.size, table, dtype=np.int64)
        ids = np.ascontiguousarray(entries["id"][~cold]).astype(np.int64)
        self.slab.reserve(self.index.rows_end + ids.size)
        found = np.empty(ids.size, dtype=np.int64)
        done = 0
        while (done := upsert(self.index.arrays, self.slab.headers, table, ids, found, self.counts, done)) < ids.size:
            self.index.grow()
        rows[~cold] = found
        headers = self.slab.headers
        for name in ("seq", "last_seen", "count"):
            headers[name][rows] = entries[name]
        data = self.slab.data
        width = 1 + min(self.tables[table].dim, entries["values"].shape[1] - 1)
        data[rows, :width] = entries["values"][:, :width]
        data[rows, width : 1 + self.dim] = 0.0  # a row may have belonged to a wider table before
        if self.learning:
            data[rows, 1 + self.dim :] = entries["state"]

    def remove(self, table: int, ids: NDArray[np.int64]) -> None:
        """Removes rows. Idempotent."""
        rows = self.index.remove(table, ids)
        rows = rows[rows >= 0]
        self.slab.headers["live"][rows] = 0
        self.counts[table] -= rows.size

    def clear(self, table: int) -> None:
        """Removes all rows of a table and makes its cold row new."""
        self.remove(table, self.table_ids(table))
        self._make_cold(table)

    # What readers ask

    def live_rows(self, table: int) -> NDArray[np.int64]:
        """The rows of one table that are there and not expired, sorted by id as unsigned: int64[n].

        The cold row is not one.
        """
        first, last = len(self.tables), self.index.rows_end
        headers = self.slab.headers[first:last]
        mask = (headers["live"] == 1) & (headers["table"] == table)
        mask &= self.clock_ms - headers["last_seen"] <= self._expire_ms[table]
        rows = np.flatnonzero(mask) + first
        return rows[np.argsort(self.slab.headers["id"][rows].view(np.uint64))]

    def table_ids(self, table: int) -> NDArray[np.int64]:
        """The ids that have a row in one table, expired ones included: int64[n]."""
        first, last = len(self.tables), self.index.rows_end
        headers = self.slab.headers[first:last]
        mask = (headers["live"] == 1) & (headers["table"] == table)
        return np.array(headers["id"][mask], dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use and of their index."""
        return self.index.rows_end * self.slab.row_bytes + self.index.nbytes
