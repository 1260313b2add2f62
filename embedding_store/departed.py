"""What a shard remembers of rows that are not in its memory.

A row that left is known by its id alone, in a filter that may also pass strangers: those are asked for in vain. So
that the filter does not fill up with ids that came back or expired, a second one is filled while all stored rows are
walked through, and takes the place of the first at the end of each round.

An id whose row is gone, while the store still shows it because that commit is not folded yet, is remembered exactly:
asking for it would bring a dead row back.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from embedding_store.bloom import Bloom, has
from embedding_store.index import HashIndex
from embedding_store.kernel import kernel
from embedding_store.table import IndexArrays, find


@kernel()
def _may_be_away(
    index: IndexArrays,
    gone: IndexArrays,
    words: NDArray[np.uint64],
    tables: NDArray[np.int64],
    ids: NDArray[np.int64],
    out: NDArray[np.int64],
) -> int:
    n = 0
    for i in range(ids.size):
        table = tables[i]
        if has(words, table, ids[i]) and find(index, table, ids[i]) < 0 and find(gone, table, ids[i]) < 0:
            out[n] = i
            n += 1
    return n


class Departed:
    """The rows of a shard that are in Redis only.

    Args:
        tables: How many tables there are.
        memory_bytes: Of both filters together.

    Attributes:
        counts: Rows of each table, int64[T].
    """

    def __init__(self, tables: int, memory_bytes: int) -> None:
        self.counts = np.zeros(tables, dtype=np.int64)
        self._filter, self._next = Bloom(memory_bytes // 2), Bloom(memory_bytes // 2)
        self._gone = HashIndex(tables)
        self._gone_at = np.zeros(1024, dtype=np.int64)
        self._unfolded: deque[tuple[int, int, NDArray[np.int64]]] = deque()

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of the filters and of the ids that are gone."""
        return self._filter.words.nbytes + self._next.words.nbytes + self._gone.nbytes + self._gone_at.nbytes

    # Rows that leave and come back

    def add(self, table: int, ids: NDArray[np.int64]) -> None:
        """Rows that have left the memory."""
        self._filter.add(table, ids)
        self._next.add(table, ids)
        self.counts[table] += ids.size

    def take(self, table: int, count: int) -> None:
        """So many rows have come back, or are gone for good."""
        self.counts[table] -= count

    def among(
        self, index: HashIndex, tables: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> list[tuple[int, NDArray[np.int64]]]:
        """Ids that may be away, each once, by table.

        Args:
            index: Of the rows in memory.
            tables: int64[N].
            ids: int64[N].
        """
        out = np.empty(ids.size, dtype=np.int64)
        found = out[: _may_be_away(index.arrays, self._gone.arrays, self._filter.words, tables, ids, out)]
        return [(t, np.unique(ids[found[tables[found] == t]])) for t in np.unique(tables[found]).tolist()]

    def away(self, index: HashIndex, table: int, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some ids that the store has rows of are away: bool[N]. Exact."""
        return (index.lookup(table, ids) < 0) & (self._gone.lookup(table, ids) < 0)

    # Rows that are gone

    def bury(self, table: int, ids: NDArray[np.int64], seq: int) -> None:
        """Ids without a row from commit `seq` on, whatever the store says before that is folded."""
        rows = self._gone.lookup_or_insert(table, ids)
        if self._gone.rows_end > self._gone_at.size:
            self._gone_at = np.concatenate([self._gone_at, np.zeros(self._gone.rows_end, dtype=np.int64)])
        self._gone_at[rows] = seq
        self._unfolded.append((seq, table, ids))

    def pass_mark(self, folded: int) -> None:
        """The stored rows are those of commit `folded` or later. To be called before they are read."""
        while self._unfolded and self._unfolded[0][0] <= folded:
            _, table, ids = self._unfolded.popleft()
            rows = self._gone.lookup(table, ids)
            done = (rows >= 0) & (self._gone_at[rows] <= folded)
            self._gone.remove(table, ids[done])

    # Rounds through the stored rows

    def begin_round(self) -> None:
        """A walk through all stored rows begins, anew where one was under way."""
        self._next.clear()

    def note(self, table: int, ids: NDArray[np.int64]) -> None:
        """The walk has met rows that are away."""
        self._next.add(table, ids)

    def end_round(self) -> None:
        """The walk has met every row that was away throughout; the next one begins."""
        self._filter, self._next = self._next, self._filter
        self._next.clear()
