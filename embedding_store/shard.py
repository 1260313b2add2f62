"""What one owner holds: the rows of all tables, found by id, scored, learned from, expired.

A batch's ids come as occurrences: B examples of F fields, (example b, field f) owning the occurrences `offsets[b * F
+ f]` to `offsets[b * F + f + 1]`, at least one. Row t is the cold row of table t; an id without a row, or a missing
value, scores as it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_store import gaussian, optimizers
from embedding_store.codec import FILTER, Block
from embedding_store.lookup import Fields, Occurrences, gather, lookup
from embedding_store.plan import TablePlan
from embedding_store.row_set import NONE, RowSet
from embedding_store.sightings import expired_rows, reencode_stale, touch

_REENCODED = 24
"""Rows that are looked at, for each example, while a new plan is being carried out."""


class Shard(RowSet):
    """Rows that score and learn. Arguments and attributes as those of :class:`RowSet`."""

    # Scoring

    def warm(self, lookups: Callable[[], Sequence[tuple[Occurrences, Fields]]]) -> None:
        """Tells what will be looked up next, to a shard that must fetch rows from elsewhere; others do not ask."""

    def lookup(self, batch: Occurrences, fields: Fields) -> NDArray[np.int64]:
        """The row that scores each occurrence: int64[N]. Changes nothing."""
        found = np.empty(batch.ids.size, dtype=np.int64)
        lookup(
            self.index.arrays, self.rows.arrays, self._table_arrays, batch.ids, batch.missing, batch.offsets,
            fields.tables, self.clock_ms, found,
        )  # fmt: skip
        return found

    def take_misses(self) -> dict[int, NDArray[np.int64]]:
        """Ids by table that lookups since the last call did not find although the store may have them: int64[n]."""
        return {}

    def gather(self, rows: NDArray[np.int64], batch: Occurrences, fields: Fields) -> NDArray[np.float32]:
        """Pooled rows of each field at full width: float32[B, F, 1 + K]; first the linear weight, then the vector.

        Args:
            rows: int64[N], as `lookup` gave them.
            batch: The ids.
            fields: Of the batch.
        """
        flat = np.empty((batch.offsets.size - 1, 1 + self.dim), dtype=np.float32)
        gather(
            self.rows.arrays, self._layouts, self._table_arrays, batch.ids, rows, batch.offsets, fields.means, flat
        )  # fmt: skip
        out = flat.reshape(-1, fields.means.size, 1 + self.dim)
        for f, matrix in self._matrices(fields):
            out[:, f, 1 : 1 + len(matrix)] = out[:, f, 1 : 1 + len(matrix)] @ matrix.T
        return out

    def _matrices(self, fields: Fields) -> list[tuple[int, NDArray[np.float32]]]:
        if not self.layouts.plans:
            return []
        found = []
        for f, t in enumerate(fields.tables.tolist()):
            plan = self.layouts.plans.get(self.tables[t].name)
            if plan is not None and plan.matrix is not None:
                found.append((f, np.array(plan.matrix, dtype=np.float32)))
        return found

    # Learning

    def sight(
        self,
        batch: Occurrences,
        scored: NDArray[np.int64],
        fields: Fields,
        times_ms: NDArray[np.int64],
        origins: NDArray[np.uint64],
    ) -> NDArray[np.int64]:
        """Counts the sightings and gives admitted ids their rows.

        The clock stays as it is: :meth:`pass_on` moves it once the whole batch was taken in.

        Args:
            batch: The ids.
            scored: int64[N], as `lookup` gave them for this batch.
            fields: Of the batch.
            times_ms: int64[B], event time of each example.
            origins: uint64[B], a number for where each example came from, the same whenever it is read.

        Returns:
            int64[N], the ids' own rows; the cold row for those without.
        """
        size = batch.ids.size
        self.rows.reserve(self.index.rows_end + size, 3 * size * self._widest_of(fields.tables))
        self._reserve_dirty(2 * size)
        self.filter.advance(max(self.clock_ms, int(times_ms.max())))
        updated = np.full(size, -1, dtype=np.int64)
        while not touch(
            self.index.arrays, self.rows.arrays, self._layouts, self._table_arrays, self.filter.arrays, self._touched,
            batch.ids, batch.missing, batch.offsets, fields, times_ms, origins, self.clock_ms, self.seq, scored,
            updated,
        ):  # fmt: skip
            self.index.grow()
        return updated

    def step(
        self,
        batch: Occurrences,
        scored: NDArray[np.int64],
        updated: NDArray[np.int64],
        gradients: NDArray[np.float32],
        fields: Fields,
    ) -> None:
        """Takes one optimizer step with every row touched.

        Args:
            batch: The ids.
            scored: int64[N], as `lookup` gave them for this batch.
            updated: int64[N], as :meth:`sight` gave them.
            gradients: float32[B, F, 1 + K] of the loss with respect to what `gather` gave, summed over the batch.
            fields: Of the batch.
        """
        for f, matrix in self._matrices(fields):
            gradients[:, f, 1 : 1 + len(matrix)] = gradients[:, f, 1 : 1 + len(matrix)] @ matrix
        room = batch.ids.size + len(self.tables)
        sums = optimizers.Summed(np.empty(room, np.int64), np.empty((room, 1 + self.dim), np.float32))
        found = optimizers.sum_gradients(
            self.rows.arrays, batch.offsets, scored, updated, batch.missing, fields.means, gradients, sums
        )
        emptied = np.empty(room, dtype=np.int64)
        empty = optimizers.step(self.rows.arrays, self._layouts, self._table_arrays, sums, found, emptied)
        if empty:
            self._drop_rows(emptied[:empty])

    def pass_on(self, times_ms: NDArray[np.int64]) -> None:
        """Moves the clock on to what was learned from, and re-encodes some rows that a new plan has otherwise."""
        self.clock_ms = max(self.clock_ms, int(times_ms.max()))
        self._reencode(_REENCODED * times_ms.size)

    # Gaussian weights

    def score_gaussian(
        self, rows: NDArray[np.int64], batch: Occurrences, fields: Fields, bias: NDArray[np.float64], linear: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance of each example's log odds, what each field adds to the mean, and how well it is known.

        Args:
            rows: int64[N], as `lookup` gave them.
            batch: The ids.
            fields: Of the batch.
            bias: float64[T, 2], mean and variance of each task's.
            linear: L, how many fields add to the score; the others come behind them.

        Returns:
            float64[B, T, 2], float32[B, L, T] and float32[B, L, T], as :func:`gaussian.score` gives them.
        """
        count = (batch.offsets.size - 1) // fields.tables.size
        moments = np.empty((count, *bias.shape), dtype=np.float64)
        means = np.empty((count, linear, len(bias)), dtype=np.float32)
        confidence = np.empty_like(means)
        gaussian.score(
            self.rows.arrays, self._table_arrays, rows, batch.missing, batch.offsets, fields, bias, moments, means,
            confidence,
        )  # fmt: skip
        return moments, means, confidence

    def learn_gaussian(
        self,
        batch: Occurrences,
        scored: NDArray[np.int64],
        updated: NDArray[np.int64],
        fields: Fields,
        labels: NDArray[np.float32],
        weights: NDArray[np.float32],
        shifts: NDArray[np.float32],
        bias: NDArray[np.float64],
        linear: int,
    ) -> None:
        """Moves every weight that a batch touched, example by example; arguments as :func:`gaussian.learn` has them."""
        gaussian.learn(
            self.rows.arrays, self._table_arrays, scored, updated, batch.missing, batch.offsets, fields, labels,
            weights, shifts, bias, linear,
        )  # fmt: skip

    def _reserve_dirty(self, more: int) -> None:
        used = int(self._touched.n_dirty[0])
        if used + more > self._touched.dirty.size:
            grown = np.concatenate([self._touched.dirty, np.empty(used + more, dtype=np.int64)])
            self._touched = self._touched._replace(dirty=grown)

    def _drop_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Removes rows and remembers that they are gone. Returns how many went of each table: int64[T]."""
        headers = self.rows.headers[rows]
        went = np.zeros(len(self.tables), dtype=np.int64)
        for t in np.unique(headers["table"]).tolist():
            ids = headers["id"][headers["table"] == t].astype(np.int64)
            self.remove(t, ids)
            self._note_gone(t, ids)
            went[t] = ids.size
        return went

    def _note_gone(self, table: int, ids: NDArray[np.int64]) -> None:
        """The next commit says that these ids have no row any more."""
        self._gone[table] = np.concatenate([self._gone[table], ids])

    # Plans

    def set_plan(self, table: str, plan: TablePlan | None) -> None:
        """Puts one table's dimension plan in force; as :meth:`set_plans`."""
        self.set_plans({table: plan})

    def set_plans(self, plans: Mapping[str, TablePlan | None]) -> None:
        """Puts plans in force, None for full width. Rows are read as they say at once, and re-encoded by and by.

        Raises:
            KeyError: If there is no such table.
            ValueError: If a plan does not fit its table.
        """
        for table, plan in plans.items():
            faults = plan.faults(self.tables[self.number[table]].dim) if plan else []
            if faults:
                raise ValueError(f"the plan of table {table!r}: " + "; ".join(faults))
        if not plans:
            return
        self.carry_out()  # what an earlier plan dropped stays dropped
        now = {**self.layouts.plans, **plans}
        self.layouts.plans = {table: plan for table, plan in now.items() if plan is not None}
        self._layouts = self.layouts.arrays()
        self._stale = 0
        if self.learning:  # a reader would make a cold row that never changed in its new layout, not re-encode it
            self._renew(np.arange(len(self.tables)))

    def carry_out(self, make_room: Callable[[], None] = lambda: None) -> None:
        """Re-encodes what the present plans have otherwise, if they are not carried out yet.

        Args:
            make_room: Called where memory runs short: commits, and waits until that is folded.
        """
        if self._stale >= 0:
            self.settle()

    def _reencode(self, rows: int) -> None:
        """Re-encodes the stale among the next so many rows; once round, there are none left."""
        if self._stale < 0 or not self.learning:
            return
        last = min(self._stale + rows, self.index.rows_end)
        self._renew(np.arange(self._stale, last))
        self._stale = last if last < self.index.rows_end else -1

    def _renew(self, some: NDArray[np.int64]) -> None:
        """Re-encodes those of some rows, int64[n], that the present plans have otherwise."""
        self.rows.reserve(self.index.rows_end, some.size * self._widest)
        self._reserve_dirty(some.size)
        reencode_stale(self.rows.arrays, self._layouts, self._table_arrays, some, self.seq, self._touched)

    def settle(self) -> None:
        """Re-encodes every row that the present plans have otherwise, as a dump shows them."""
        self._stale = 0 if self.learning else -1
        while self._stale >= 0:
            self._reencode(1 << 16)

    # What a commit takes

    def keep(self) -> bool:
        """Whether memory suffices; a shard that may hold only so much lets cold rows go first."""
        return True

    def sweep(self, rows: int) -> None:
        """Removes the expired among the next so many rows; the sweep goes round, so repeated calls reach every row.

        A round ends where the rows end, and the next begins at the first: new rows at the end do not hold it there.
        """
        first = self._sweep
        last = min(first + rows, self.index.rows_end)
        self._sweep = last if last < self.index.rows_end else len(self.tables)
        found = np.empty(max(0, last - first), dtype=np.int64)
        n = expired_rows(self.rows.arrays, self._table_arrays, first, last, self.clock_ms, found)
        if n:
            self._touched.expired[:] += self._drop_rows(found[:n])

    def take_changes(self) -> tuple[list[Block], dict[str, NDArray[np.int64]]]:
        """Rows and filter pages changed and ids gone since the last call.

        What is gone comes before what changed: an id may be in both.
        """
        dirty = np.unique(self._touched.dirty[: self._touched.n_dirty[0]])
        live = dirty[self.rows.headers["at"][dirty] >= 0]
        blocks = self.blocks(live)
        gone = {self.tables[t].name: ids for t, ids in enumerate(self._gone) if ids.size}
        pages, emptied = self.filter.take_changes()
        if pages.entries.size:
            blocks.append(pages)
        if emptied.size:
            gone[FILTER] = emptied
        self._touched.n_dirty[0] = 0
        self._gone = [NONE] * len(self.tables)
        self.seq += 1
        return blocks, gone

    def parts(self) -> dict[str, bytes]:
        """What a commit carries of the shard besides rows: layouts with plans, and where the filter's ring stands."""
        return {"layouts": self.layouts.to_json(), "filter": self.filter.state_json()}
