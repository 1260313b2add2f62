"""A shard that holds no more than a number of bytes: cold rows are in Redis only, and come back when they are seen.

What it scores, learns and commits is to the bit what a shard that holds everything does. A row may leave once the
commit that changed it last is folded, since Redis has its bytes then. Whatever looks an id up gets its row back first:
there is no other way to a row. What befalls rows while they are away, a walk through the stored rows finds out: those
past their expiry get a tombstone, those that a new plan has otherwise are brought back and re-encoded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_store.codec import Block, decode_found, decode_rows
from embedding_store.departed import Departed
from embedding_store.eviction import coldest, compact, folded_rows
from embedding_store.lookup import Fields, Occurrences
from embedding_store.plan import TablePlan
from embedding_store.rows import Rows
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.shard import Shard
from embedding_store.slabs import HEADER

_FILTERS = 8  # one part in so many of the budget is for the filters of rows that left
_SPARE = 16  # one part in so many stays free for the batch that comes
_AT_ONCE = 10  # one part in so many leaves at once, so that it is rare
_PACE = 16  # rows that are swept, for each row that the walk looks at
_IDLE_PACE = 128  # the same where no table expires: then a round only renews the filter
_LEAST = 1024  # rows that a step of the walk counts as, at least: each is a round trip
_ADMISSION = AdmissionSettings()


class Stored(Protocol):
    """The rows in Redis; see :class:`embedding_store.stored_rows.StoredRows`."""

    folded: Callable[[], int]

    def fetch(self, wanted: dict[str, NDArray[np.int64]]) -> dict[str, list[bytes | None]]:
        """Rows of single ids, None where there is none."""

    def read(self, table: str, first: int) -> tuple[list[Rows], int | None]:
        """Rows of some hashes, and the hash to go on with."""


class BoundedShard(Shard):
    """Rows that score and learn, most of which may be away.

    Args:
        stored: The rows in Redis.
        budget_bytes: What rows, index and filters may take together, at least :func:`least_budget`. A batch may come
            on top.
        tables: This and what follows as for :class:`RowSet`.
        seed: Of the initial values.
        admission: The filter of tables that count sightings.
        layouts: As a commit carries them.

    Attributes:
        evicted: Rows that left the memory, int64[T].
        returned: Rows that came back, int64[T].
    """

    def __init__(
        self,
        stored: Stored,
        budget_bytes: int,
        tables: Sequence[TableSettings],
        seed: int,
        admission: AdmissionSettings = _ADMISSION,
        layouts: bytes = b"",
    ) -> None:
        super().__init__(tables, seed, True, admission, layouts)
        self._stored = stored
        self._budget = budget_bytes
        self._departed = Departed(len(self.tables), budget_bytes // _FILTERS)
        self.evicted = np.zeros(len(self.tables), dtype=np.int64)
        self.returned = np.zeros(len(self.tables), dtype=np.int64)
        self._fell_short_at = -1  # the mark when too few rows could leave
        self._walk_table, self._walk_hash, self._credit = 0, 0, 0
        self._stale_away = self._stale_left = False  # whether rows away may be as an earlier plan had them

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each table, wherever they are: int64[T]."""
        return self._touched.counts + self._departed.counts

    @property
    def away(self) -> NDArray[np.int64]:
        """Rows of each table that are in Redis only: int64[T]."""
        return self._departed.counts

    @property
    def nbytes(self) -> int:
        """Bytes of rows, index and filters, free strips and rows included."""
        return super().nbytes + self._departed.nbytes

    @property
    def bytes_in_use(self) -> int:
        """The same without what is free to be used again."""
        return self._row_bytes + self.index.nbytes + self.filter.nbytes + self._departed.nbytes

    @property
    def _row_bytes(self) -> int:
        return (len(self.index) + len(self.tables)) * HEADER.itemsize + self.rows.live_bytes

    # Leaving

    def keep(self) -> bool:
        """Lets the coldest rows go where memory runs short. Not between a lookup and the use of the rows it gave.

        Returns:
            Whether the budget holds. If not, rows can leave only after more commits were folded.
        """
        limit = self._budget - self._budget // _SPARE
        if self.bytes_in_use > limit and (folded := self._stored.folded()) > self._fell_short_at:
            self._evict(self.bytes_in_use - limit + self._budget // _AT_ONCE, folded)
            self._fell_short_at = folded if self.bytes_in_use > limit else -1
        if self.nbytes > self._budget and self.rows.memory_bytes - self.rows.live_bytes > self._budget // _SPARE:
            compact(self.rows.arrays, self._layouts, self.index.rows_end)
        return self.bytes_in_use <= self._budget

    def _evict(self, size: int, folded: int) -> None:
        rows = self.evictable(folded)
        mean = self._row_bytes / (len(self.index) + len(self.tables))
        seen = self.rows.headers["last_seen"][rows].astype(np.int64)
        count = self.rows.headers["count"][rows].astype(np.int64)
        self.depart(rows[coldest(seen, count, math.ceil(size / mean))])

    def evictable(self, folded: int) -> NDArray[np.int64]:
        """The rows that the store, folded to a commit of this number, has as they are: int64[n]."""
        found = np.empty(self.index.rows_end, dtype=np.int64)
        return found[: folded_rows(self.rows.arrays, len(self.tables), self.index.rows_end, folded, found)]

    def depart(self, rows: NDArray[np.int64]) -> None:
        """Lets some of the rows that :meth:`evictable` gave go: int64[n]."""
        self._departed.pass_mark(self._stored.folded())
        headers, tables = self.rows.headers, self.rows.headers["table"][rows]
        for t in np.unique(tables).tolist():
            some = rows[tables == t]
            if self._is_stale(t, headers["count"][some], headers["layout"][some]).any():
                self._stale_away = self._stale_left = True
            ids = headers["id"][some].astype(np.int64)
            self.remove(t, ids)
            self._departed.add(t, ids)
            self.evicted[t] += ids.size

    def _is_stale(self, table: int, counts: NDArray[np.uint32], layouts: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Which rows of so many sightings, in these layouts, the present plan has otherwise: bool[n]."""
        first, last = self._layouts.starts[table : table + 2]
        block = first + np.searchsorted(self._layouts.bounds[first:last], counts, side="right") - 1
        return np.asarray(self._layouts.blocks[block] != layouts)

    # Coming back

    def apply(self, block: Block) -> None:
        """Sets the rows of a block, as a restoring owner finds them; those that are too many leave at once."""
        super().apply(block)
        self.keep()

    def lookup(self, batch: Occurrences, fields: Fields) -> NDArray[np.int64]:
        """The row that scores each occurrence: int64[N]. Changes nothing but where rows are."""
        found = super().lookup(batch, fields)
        if self._departed.total and self._bring([(batch, found)]):
            return super().lookup(batch, fields)
        return found

    def warm(self, lookups: Callable[[], Sequence[tuple[Occurrences, Fields]]]) -> None:
        """Brings the rows of several lookups back in one round trip, where each lookup would take one of its own."""
        if self._departed.total:
            find = super().lookup
            self._bring([(batch, find(batch, fields)) for batch, fields in lookups()])

    def _bring(self, lookups: list[tuple[Occurrences, NDArray[np.int64]]]) -> bool:
        """Brings back what is away among ids that were not found. Whether there was any."""
        tables, ids = [], []
        for batch, found in lookups:
            lacking = np.flatnonzero((found < len(self.tables)) & ~batch.missing)
            tables.append(found[lacking])  # the cold row's number is the table's
            ids.append(batch.ids[lacking])
        self._departed.pass_mark(self._stored.folded())
        wanted = self._departed.among(self.index, np.concatenate(tables), np.concatenate(ids))
        if not wanted:
            return False
        answers = self._stored.fetch({self.tables[t].name: some for t, some in wanted})
        before = int(self.returned.sum())
        for t, some in wanted:
            for block in decode_found(self.tables[t], some, answers[self.tables[t].name]):
                self._take_back(t, block)
        return int(self.returned.sum()) > before

    def _take_back(self, table: int, block: Block) -> None:
        before = int(self._touched.counts[table])
        super().apply(block)
        came = int(self._touched.counts[table]) - before
        self._departed.take(table, came)
        self.returned[table] += came
        rows = self.index.lookup(table, block.entries["id"].astype(np.int64))
        self._renew(rows[rows >= 0])

    # What befalls rows that are away

    def _note_gone(self, table: int, ids: NDArray[np.int64]) -> None:
        super()._note_gone(table, ids)
        self._departed.bury(table, ids, self.seq)

    def sweep(self, rows: int) -> None:
        """Removes the expired among the next so many rows, and walks on through those in Redis."""
        super().sweep(rows)
        if not self._departed.total and not self._stale_away:
            return
        expires = any(table.expire_after is not None for table in self.tables)
        self._credit += rows if self._stale_away else rows // (_PACE if expires else _IDLE_PACE)
        while self._credit > 0:
            self._credit -= max(_LEAST, self.walk())

    def walk(self) -> int:
        """Looks at the next stored rows, some thousands; the walk goes round. Returns how many there were."""
        table = self.tables[self._walk_table]
        self._departed.pass_mark(self._stored.folded())
        parts, after = self._stored.read(table.name, self._walk_hash)
        for _, fields, rows in parts:
            for block in decode_rows(table, fields, rows):
                self._judge(self._walk_table, block.entries[~block.cold])
        if after is not None:
            self._walk_hash = after
        else:
            self._walk_table, self._walk_hash = self._walk_table + 1, 0
            if self._walk_table == len(self.tables):
                self._walk_table = 0
                self._departed.end_round()
                self._stale_away, self._stale_left = self._stale_left, False
        return sum(len(rows) for _, _, rows in parts)

    def _judge(self, table: int, entries: NDArray[np.void]) -> None:
        """Entries of stored rows: a tombstone for the expired ones that are away, a new encoding for the stale."""
        _, places = np.unique(entries["id"], return_index=True)
        entries = entries[places]
        entries = entries[self._departed.away(self.index, table, entries["id"].astype(np.int64))]
        expired = self.clock_ms - entries["last_seen"] > self._table_arrays.expire_ms[table]
        if expired.any():
            ids = entries["id"][expired].astype(np.int64)
            self._note_gone(table, ids)
            self._departed.take(table, ids.size)
            self._touched.expired[table] += ids.size
            entries = entries[~expired]
        self._departed.note(table, entries["id"].astype(np.int64))
        stale = self._is_stale(table, entries["count"], entries["layout"])
        if stale.any():
            self._take_back(table, Block(self.tables[table].name, entries[stale]))

    # Plans

    def set_plans(self, plans: Mapping[str, TablePlan | None]) -> None:
        """As :meth:`Shard.set_plans`; :meth:`carry_out` before it keeps the budget."""
        super().set_plans(plans)
        if self._departed.total:
            self._stale_away, self._stale_left = True, False
            self._walk_table, self._walk_hash = 0, 0
            self._departed.begin_round()

    def carry_out(self, make_room: Callable[[], None] = lambda: None) -> None:
        """As :meth:`Shard.carry_out`, wherever the rows are."""
        super().carry_out()
        while self._stale_away:
            if not self.keep():
                make_room()
            self.walk()
