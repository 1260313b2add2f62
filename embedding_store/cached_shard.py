"""A shard that holds what its readers ask for, in bounded memory, and says what it must fetch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_store.cache import UNUSED, absent, look, turn
from embedding_store.codec import COLD, decode_found
from embedding_store.errors import BadBytes
from embedding_store.lookup import Fields, Occurrences
from embedding_store.row_set import RowSet
from embedding_store.serving import Codec
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.shard import Shard

_SLOT_BYTES = 40  # of the index, at its emptiest
_AT_ONCE_BYTES = 1 << 16  # evicted at once, so that not every new row turns the hand

Misses = Mapping[int, NDArray[np.int64]]
"""Distinct ids by table number: int64[n]."""


@dataclass(slots=True)
class Tally:
    """What caching did since the process began.

    Attributes:
        hits: Ids looked up that were in memory, as rows or as known to have none.
        misses: Ids looked up that were not.
        fetched: Ids asked of the store.
        failed: Ids that could not be asked for, and were scored by their cold rows.
        evicted: Rows, and ids known to have none, that had to go.
    """

    hits: int = 0
    misses: int = 0
    fetched: int = 0
    failed: int = 0
    evicted: int = 0


class CachedShard(Shard):
    """Rows that were asked for, rows of commits that are not folded yet, and ids that are known to have no row.

    A lookup answers with the cold row for an id that is not in memory, and notes it. The rows of commits that the
    store's rows do not have yet stay whatever the budget says: at most `store.log_bytes` of them come on top of it.

    Args:
        tables: As those of :class:`RowSet`, and so are the next three.
        seed: See there.
        admission: See there.
        layouts: See there.
        codec: How vectors are held.
        budget_bytes: Of rows, headers and index.
        tally: Counts along.

    Attributes:
        folded: Number of the last commit that is known to be wholly in the stored rows.
    """

    is_whole = False

    def __init__(
        self,
        tables: tuple[TableSettings, ...],
        seed: int,
        admission: AdmissionSettings,
        layouts: bytes,
        codec: Codec,
        budget_bytes: int,
        tally: Tally,
    ) -> None:
        super().__init__(tables, seed, False, admission, layouts, codec, drops=True)
        self.folded = 0
        self._budget = budget_bytes
        self._tally = tally
        self._hand = 0
        self._uses = 0
        self._unknown: list[NDArray[np.int64]] = []
        self._fetching: list[int] = []
        self._dropped: dict[int, int] = {}

    # What readers ask

    def lookup(self, batch: Occurrences, fields: Fields) -> NDArray[np.int64]:
        """The row that scores each occurrence: int64[N]. Notes what is not in memory."""
        found = np.empty(batch.ids.size, dtype=np.int64)
        unknown = np.empty((batch.ids.size, 2), dtype=np.int64)
        count = look(
            self.index.arrays, self.rows.arrays, self._table_arrays, batch.ids, batch.missing, batch.offsets,
            fields.tables, self.clock_ms, found, unknown,
        )  # fmt: skip
        self._tally.misses += count
        self._tally.hits += batch.ids.size - int(np.count_nonzero(batch.missing)) - count
        if count:
            self._unknown.append(unknown[:count])
        return found

    def take_misses(self) -> dict[int, NDArray[np.int64]]:
        """What lookups since the last call did not find in memory."""
        if not self._unknown:
            return {}
        unknown = np.concatenate(self._unknown)
        self._unknown = []
        return {t: np.unique(unknown[unknown[:, 0] == t, 1]) for t in np.unique(unknown[:, 0]).tolist()}

    # What a fetch brings

    def begin_fetch(self) -> int:
        """Keeps everything that is not folded by now until :meth:`end_fetch` gets what this returns."""
        self._fetching.append(self.folded)
        return self.folded

    def end_fetch(self, begun: int) -> None:
        """A fetch is over. What had to stay only for it may go."""
        self._fetching.remove(begun)
        self._make_room(0)

    def settle_misses(self, misses: Misses, stored: Mapping[str, list[bytes | None]]) -> None:
        """Takes in what the store said of some ids, as far as memory has nothing newer by now.

        Args:
            misses: The ids.
            stored: By table name the row of each, None where there is none.

        Raises:
            BadBytes: If a stored row cannot be read.
        """
        self._uses = 1
        try:
            for table, ids in misses.items():
                self._settle(table, ids, stored[self.tables[table].name])
        finally:
            self._uses = 0

    def _settle(self, table: int, ids: NDArray[np.int64], rows: list[bytes | None]) -> None:
        there = np.array([row is not None for row in rows], dtype=np.bool_)
        dropped = self._dropped.get(table, 0)
        nowhere = [ids[~there]]
        try:
            blocks = decode_found(self.tables[table], ids, rows)
        except BadBytes:
            if not dropped:
                raise
            blocks, nowhere = [], [ids]
        for block in blocks:
            gone = block.entries["seq"] <= dropped  # of the table before it was dropped, and not folded yet
            nowhere.append(block.entries["id"][gone].astype(np.int64))
            self._apply_some(table, block.entries[~gone])
        self._remember_absent(table, np.concatenate(nowhere), 0)

    def _apply_some(self, table: int, entries: NDArray[np.void]) -> None:
        if entries.size:
            self._apply(table, int(entries["layout"][0]), entries)

    # What a commit brings

    def _apply(self, table: int, layout: int, entries: NDArray[np.void]) -> None:
        """Sets rows, unless memory holds newer ones."""
        held = self._held(table, entries)
        known = held >= 0
        older = np.zeros(held.size, dtype=np.bool_)
        older[known] = self.rows.headers["seq"][held[known]] > entries["seq"][known]
        entries, new = entries[~older], ~known[~older]
        if not entries.size or layout >= self._layouts.widths.size:
            return
        more = int(np.count_nonzero(new))
        strips = int(np.count_nonzero(self.rows.headers["at"][held[known & ~older]] < 0)) + more
        self._make_room(more * self._each + 4 * strips * int(self._layouts.widths[layout]))
        super()._apply(table, layout, entries)
        rows = self._held(table, entries[new])
        self.rows.headers["slot"][rows[rows >= 0]] = self._uses

    def _held(self, table: int, entries: NDArray[np.void]) -> NDArray[np.int64]:
        """The row of each entry, -1 where there is none: int64[n]."""
        rows = self.index.lookup(table, np.ascontiguousarray(entries["id"]).astype(np.int64))
        return np.where((entries["flags"] & COLD) != 0, table, rows)

    def remove(self, table: int, ids: NDArray[np.int64]) -> None:
        """Removes rows, as the commit that is being applied says, unless memory holds newer ones. Idempotent."""
        self._remember_absent(table, ids.astype(np.int64), self.seq)

    def _remember_absent(self, table: int, ids: NDArray[np.int64], seq: int) -> None:
        self._make_room(self._each * int(np.count_nonzero(self.index.lookup(table, ids) < 0)))
        self.rows.reserve(self.index.rows_end + ids.size, 0)
        done = 0
        while (
            done := absent(
                self.index.arrays, self.rows.arrays, self._layouts, table, ids, seq, self._uses, self.counts, done
            )
        ) < ids.size:
            self.index.grow()

    def clear(self, table: int) -> None:
        """Removes every row of a table and makes its cold row a new one. Older stored rows of it no longer count."""
        ids, rows = self.index.entries(table)
        self._evict(table, ids, rows)
        self.rows.reserve(self.index.rows_end, self._widest)
        self._make_cold(table)
        self._dropped[table] = self.seq

    # Bounded memory

    def fold_to(self, seq: int) -> None:
        """The stored rows hold every commit up to this one: what had to stay only for that may go."""
        self.folded = seq
        self._make_room(0)

    @property
    def _each(self) -> int:
        return self.rows.header_bytes + _SLOT_BYTES

    @property
    def used_bytes(self) -> int:
        """Bytes of what is in memory now."""
        return len(self.index) * self._each + self.rows.live_bytes

    @property
    def is_worn(self) -> bool:
        """Whether strips of widths that no row has any more take so much that it is better to begin anew."""
        return self.rows.memory_bytes - self.rows.live_bytes > max(1 << 20, self._budget // 2)

    def _make_room(self, more_bytes: int) -> None:
        over = self.used_bytes + more_bytes - self._budget
        if over <= 0:
            return
        victims = np.empty(self.index.rows_end, dtype=np.int64)
        count, self._hand = turn(
            self.rows.arrays, self._layouts, len(self.tables), self.index.rows_end, self._hand,
            min([self.folded, *self._fetching]), self._each, over + min(_AT_ONCE_BYTES, self._budget // 16), victims,
        )  # fmt: skip
        rows = victims[:count]
        headers = self.rows.headers[rows]
        for table in np.unique(headers["table"]).tolist():
            some = headers["table"] == table
            self._evict(table, headers["id"][some].astype(np.int64), rows[some])
        self._tally.evicted += count

    def _evict(self, table: int, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        RowSet.remove(self, table, ids)
        self.rows.headers["at"][rows] = UNUSED
