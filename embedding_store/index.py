"""The index of a shard: batches of ids in, rows out, and room for more of them."""

import secrets

import numpy as np
from numpy.typing import NDArray

from embedding_store.arena import Arena
from embedding_store.table import (
    BLOCK,
    DEPTH,
    FREE,
    MAX_TABLES,
    ROWS,
    SEGMENT_SLOTS,
    SEGMENTS,
    IndexArrays,
    find_many,
    find_or_insert_many,
    limit_of,
    list_rows,
    remove_many,
)


class HashIndex:
    """Maps (table, id) to rows 0, 1, 2, … and hands rows of removed ids out again.

    Args:
        tables: How many tables there are.
        first_row: Rows below this one are never handed out.
    """

    def __init__(self, tables: int, first_row: int = 0) -> None:
        if not 0 < tables <= MAX_TABLES:
            raise ValueError(f"{tables} tables; there can be 1 to {MAX_TABLES}")
        self._slots = Arena(np.int64, (2,), 2 * SEGMENT_SLOTS)
        self._directory = np.array([0, 1], dtype=np.int32)
        self._depths = Arena(np.int32, (), 2)
        self._depths.array[:2] = 1
        self._room = Arena(np.int32, (), 2)
        self._room.array[:2] = [limit_of(0, 1), limit_of(1, 1)]
        key = np.frombuffer(secrets.token_bytes(8 * tables), dtype=np.uint64)
        self._salts = key.copy()
        self._control = np.array([1, 2, first_row, 0], dtype=np.int64)
        self._free = Arena(np.int64, (), 1024)
        self._first_row = first_row

    @property
    def arrays(self) -> IndexArrays:
        """What the kernels take. Valid until the next growth: do not keep it."""
        return IndexArrays(
            self._slots.array,  # type: ignore[arg-type]  # an arena's array has the arena's dtype
            self._directory,
            self._depths.array,  # type: ignore[arg-type]
            self._room.array,  # type: ignore[arg-type]
            self._salts,
            self._control,
            self._free.array,  # type: ignore[arg-type]
        )

    def __len__(self) -> int:
        return int(self._control[ROWS] - self._control[FREE]) - self._first_row

    @property
    def rows_end(self) -> int:
        """One past the highest row ever handed out."""
        return int(self._control[ROWS])

    @property
    def nbytes(self) -> int:
        """Bytes of the segments in use and of the directory."""
        return int(self._control[SEGMENTS]) * SEGMENT_SLOTS * 16 + self._directory.nbytes

    def grow(self) -> None:
        """Makes room after a kernel could not insert: a deeper directory or more segments."""
        if (int(self._control[SEGMENTS]) + 1) * SEGMENT_SLOTS > self._slots.capacity:
            self._slots.reserve(self._slots.capacity + SEGMENT_SLOTS)
            segments = self._slots.capacity // SEGMENT_SLOTS
            self._depths.reserve(segments)
            self._room.reserve(segments)
        else:
            self._directory = np.repeat(self._directory, 2)
            self._control[DEPTH] += 1

    def reserve_free(self, count: int) -> None:
        """Makes room for so many removals."""
        self._free.reserve(int(self._control[FREE]) + count)

    def entries(self, table: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every id of a table and its row, in no order: int64[n], int64[n]. Passes over the whole index."""
        ids, rows = np.empty(len(self), dtype=np.int64), np.empty(len(self), dtype=np.int64)
        count = list_rows(self.arrays, table, ids, rows)
        return ids[:count].copy(), rows[:count].copy()

    def lookup(self, table: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ids: int64[N] -> int64[N], -1 where absent."""
        rows = np.empty(ids.size, dtype=np.int64)
        find_many(self.arrays, table, ids, np.empty(BLOCK, dtype=np.int64), rows)
        return rows

    def lookup_or_insert(self, table: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ids, absent ones inserted: int64[N] -> int64[N]. Idempotent."""
        rows = np.empty(ids.size, dtype=np.int64)
        homes = np.empty(BLOCK, dtype=np.int64)
        done = 0
        while (done := find_or_insert_many(self.arrays, table, ids, homes, rows, done)) < ids.size:
            self.grow()
        return rows

    def remove(self, table: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Takes ids out and returns the rows that they had: int64[N], -1 where absent. Idempotent."""
        self.reserve_free(ids.size)
        rows = np.empty(ids.size, dtype=np.int64)
        remove_many(self.arrays, table, ids, rows)
        return rows
