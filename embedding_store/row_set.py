"""Rows of all tables, found by id, and how commits bring and take them."""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from embedding_store import codec, optimizers
from embedding_store.admission import SlidingFilter, chance_of
from embedding_store.codec import FILTER, Block
from embedding_store.index import HashIndex
from embedding_store.lookup import TableArrays
from embedding_store.plan import LayoutArrays, Layouts
from embedding_store.serving import EXACT, Codec, encode
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.sightings import TouchArrays, upsert
from embedding_store.slabs import RowArrays, Rows
from embedding_store.strips import fill, forget, make_cold_row, make_row

NEVER_MS = 1 << 62
NONE = np.empty(0, dtype=np.int64)
_ADMISSION = AdmissionSettings()


class RowSet:
    """Rows, their index, layouts and admission filter. Row t is the cold row of table t. Not thread-safe.

    Args:
        tables: Settings by table, in a fixed order; a table's number is its place here.
        seed: Of the initial values.
        learning: False for a reader, whose rows have no optimizer state and who admits nothing.
        admission: The filter of tables that count sightings.
        layouts: As a commit carries them; empty for a new store.
        codec: How a reader holds the vectors of its weights; a learner's are float32.
        drops: Whether a reader drops rows of its own accord, and so must know their ids.

    Attributes:
        clock_ms: Highest event time learned from, ms since the epoch.
        seq: Number of the commit in the making, or of the one that is being applied.
        is_whole: Whether it holds every row.
        layouts: Which numbers the rows hold. Change plans by :meth:`Shard.set_plan`.
    """

    is_whole = True

    def __init__(
        self,
        tables: Sequence[TableSettings],
        seed: int,
        learning: bool = True,
        admission: AdmissionSettings = _ADMISSION,
        layouts: bytes = b"",
        codec: Codec = "float32",
        drops: bool = False,
    ) -> None:
        self.tables = tuple(tables)
        self.number = {table.name: t for t, table in enumerate(self.tables)}
        self.dim = max(0, 0, *(table.dim for table in self.tables if table.kind == "weights"))
        self.learning = learning
        self.clock_ms = 0
        self.seq = 1
        count = len(self.tables)
        self.index = HashIndex(count, first_row=count)
        self.rows = Rows(reading=not learning and not drops)
        self.layouts = Layouts(self.tables, learning, "float32" if learning else codec)
        if layouts:
            self.layouts.load_json(layouts)
        self._layouts = self.layouts.arrays()
        counting = learning and any(t.admit_after > 1 and t.admission == "count" for t in self.tables)
        self.filter = SlidingFilter(admission.memory if counting else 0, admission.window)
        self._table_arrays = table_arrays(self.tables, seed)
        self._touched = TouchArrays(
            np.empty(1 << 16, dtype=np.int64), np.zeros(1, dtype=np.int64),
            np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.int64), np.array([0, -1], dtype=np.int64),
        )  # fmt: skip
        self._stale = 0 if layouts else -1
        self._gone = [NONE] * count
        self._sweep = count
        self.rows.reserve(2 * count, count * self._widest)
        for t in range(count):
            self._make_cold(t)

    def _make_cold(self, table: int) -> None:
        arrays = self.rows.arrays, self._layouts, self._table_arrays
        if self.learning:
            make_row(*arrays, table, table, 0, True)
            return
        make_cold_row(*arrays, table)
        if self.rows.names_ids:
            for name, value in (("id", 0), ("table", table), ("seq", 0), ("slot", 0)):
                self.rows.headers[name][table] = value

    @property
    def arrays(self) -> tuple[RowArrays, LayoutArrays]:
        """What kernels over rows take. Valid until the next growth: do not keep it."""
        return self.rows.arrays, self._layouts

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each table, cold rows not counted, expired ones that were not swept yet included: int64[T]."""
        return self._touched.counts

    @property
    def away(self) -> NDArray[np.int64]:
        """Rows of each table that are in Redis only: int64[T]."""
        return np.zeros_like(self._touched.counts)

    @property
    def admitted(self) -> NDArray[np.int64]:
        """Ids that got a row here: int64[T]."""
        return self._touched.admitted

    @property
    def filtered(self) -> NDArray[np.int64]:
        """Sightings here of ids that had no row and did not get one: int64[T]."""
        return self._touched.filtered

    @property
    def expired(self) -> NDArray[np.int64]:
        """Rows that expired here: int64[T]."""
        return self._touched.expired

    @property
    def _widest(self) -> int:
        return int(self._layouts.widths.max())

    def _widest_of(self, tables: NDArray[np.int64]) -> int:
        """float32 numbers of the widest row that one of some tables may get."""
        return int(
            np.maximum.reduceat(self._layouts.widths[self._layouts.blocks], self._layouts.starts[:-1])[tables].max()
        )

    # What a commit carries

    def by_layout(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The rows in groups of one table and one layout, the order kept inside."""
        headers = self.rows.headers[rows]
        keys = headers["table"].astype(np.int64) << 16 | headers["layout"]
        return [rows[keys == key] for key in np.unique(keys).tolist()]

    def blocks(self, rows: NDArray[np.int64]) -> list[Block]:
        """Some rows as the codec's entries: a block for each table and layout, the order kept inside."""
        return [self._block(group) for group in self.by_layout(rows)]

    def _block(self, rows: NDArray[np.int64]) -> Block:
        headers = self.rows.headers[rows]
        table = self.tables[int(headers["table"][0])]
        layout = int(headers["layout"][0])
        dim = int(self._layouts.dims[layout])
        state = table.state_width(dim) if self.learning else 0
        entries = np.zeros(rows.size, dtype=codec.entry_dtype(dim, state, table.lead))
        entries["version"] = codec.VERSION
        entries["flags"] = np.where(rows < len(self.tables), codec.COLD, 0)
        for name in ("id", "layout", "seq", "last_seen", "count"):
            entries[name] = headers[name]
        values = table.lead + dim
        strip = self.rows.memory[headers["at"][:, None] + np.arange(values + state)]
        entries["values"] = strip[:, :values]
        entries["state"] = strip[:, values:]
        return Block(table.name, entries)

    # What a commit brings

    def apply(self, block: Block) -> None:
        """Sets the rows of a block, or pages of the filter. Idempotent. A table that is not here is left out."""
        if block.table == FILTER:
            if self.learning:
                self.filter.apply(block)
            return
        table = self.number.get(block.table)
        if table is None or not block.entries.size:
            return
        for layout in np.unique(block.entries["layout"]).tolist():
            self._apply(table, int(layout), block.entries[block.entries["layout"] == layout])

    def _apply(self, table: int, layout: int, entries: NDArray[np.void]) -> None:
        settings = self.tables[table]
        values, state = entries["values"].shape[1], entries["state"].shape[1]
        dim = values - settings.lead
        if not self.layouts.holds(settings.name, layout, dim) or state != settings.state_width(dim):
            return  # of a table of this name that was dropped since
        width = int(self._layouts.widths[layout])
        ids = np.ascontiguousarray(entries["id"]).astype(np.int64)
        cold = np.asarray(entries["flags"] & codec.COLD != 0)
        self.rows.reserve(self.index.rows_end + ids.size, ids.size * width)
        found = np.empty(ids.size, dtype=np.int64)
        done, counts = 0, self._touched.counts
        while (
            done := upsert(
                self.index.arrays, self.rows.arrays, self._layouts, table, layout, cold, ids, found, counts, done
            )
        ) < ids.size:
            self.index.grow()
        if self.rows.names_ids:
            headers = self.rows.headers
            headers["id"][found] = np.where(cold, 0, ids)
            headers["table"][found] = table
            headers["seq"][found] = entries["seq"]
        fill(self.rows.arrays, found, entries["last_seen"], entries["count"], self._words(layout, entries))

    def _words(self, layout: int, entries: NDArray[np.void]) -> NDArray[np.uint32]:
        """What the strips of some entries of one layout hold here: uint32[n, words]."""
        kind, lead = int(self._layouts.kinds[layout]), int(self._layouts.leads[layout])
        if kind != EXACT:
            return encode(kind, entries["values"], lead)
        words = np.ascontiguousarray(entries).view("<u4").reshape(entries.size, -1)
        first = (codec.ID_BYTES + codec.HEADER_BYTES) // 4
        return words[:, first : None if self.learning else first + entries["values"].shape[1]]

    def remove(self, table: int, ids: NDArray[np.int64]) -> None:
        """Removes rows. Idempotent."""
        self._touched.counts[table] -= forget(self.rows.arrays, self._layouts, self.index.remove(table, ids))

    def clear(self, table: int) -> None:
        """Removes every row of a table and makes its cold row a new one."""
        self.remove(table, self.index.entries(table)[0])
        self.rows.reserve(self.index.rows_end, self._widest)
        self._make_cold(table)

    def load_layouts(self, data: bytes) -> None:
        """Takes layouts and plans as a commit carries them."""
        if data == self.layouts.to_json():
            return
        self.layouts.load_json(data)
        self._layouts = self.layouts.arrays()
        self._stale = 0

    # What readers ask

    def live_rows(self, table: int) -> NDArray[np.int64]:
        """The rows of one table that are there and not expired, by id as unsigned: int64[n].

        The cold row is not one.
        """
        ids, rows = self.index.entries(table)
        headers = self.rows.headers[rows]
        live = (headers["at"] >= 0) & (self.clock_ms - headers["last_seen"] <= self._table_arrays.expire_ms[table])
        ordered: NDArray[np.int64] = rows[live][np.argsort(ids[live].view(np.uint64))]
        return ordered

    def widths(self, table: int) -> dict[str, int]:
        """How many rows of a table, those that are there and not expired, keep how many numbers of the vector."""
        layouts = self.rows.headers["layout"][self.live_rows(table)]
        dims, counts = np.unique(self._layouts.dims[layouts], return_counts=True)
        return {str(dim): int(count) for dim, count in zip(dims.tolist(), counts.tolist(), strict=True)}

    @property
    def parameters(self) -> int:
        """Numbers of all weights at full width, cold rows among them, state and statistics not counted."""
        held = zip(self.counts.tolist(), self.tables, strict=True)
        return sum((count + 1) * (table.lead + table.dim) for count, table in held if table.kind == "weights")

    def stored_bytes(self, table: int) -> int:
        """About how many bytes the rows of a table take as they are stored, ids included."""
        settings = self.tables[table]
        dim = (
            settings.dim if settings.name not in self.layouts.plans else len(self.layouts.plans[settings.name].kept[0])
        )
        return int(self.counts[table]) * (
            codec.HEADER_BYTES + codec.ID_BYTES + 4 * (settings.lead + dim + settings.state_width(dim))
        )

    def held_bytes(self, table: int) -> int:
        """How many bytes the rows of a table take here at most: as many as if all were as wide as the widest."""
        strip = 4 * self._widest_of(np.array([table]))
        return int(self.counts[table]) * (strip + self.rows.header_bytes) + int(
            self.index.nbytes * self.counts[table] // max(1, len(self.index))
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use, of their index and of the filter."""
        headers = self.index.rows_end * self.rows.header_bytes
        return headers + self.rows.memory_bytes + self.index.nbytes + self.filter.nbytes


def table_arrays(tables: Sequence[TableSettings], seed: int) -> TableArrays:
    """What kernels know of some tables, whose new rows depend on this seed."""
    return TableArrays(
        dims=np.array([t.dim for t in tables], dtype=np.int64),
        expire_ms=np.array([t.expire_after or NEVER_MS for t in tables], dtype=np.int64),
        seeds=np.array([xxhash.xxh3_64_intdigest(t.name.encode(), seed) for t in tables], dtype=np.uint64),
        optimizers=np.array([optimizers.KINDS[t.optimizer] for t in tables], dtype=np.int64),
        linears=np.array([optimizers.KINDS[t.linear or t.optimizer] for t in tables], dtype=np.int64),
        rates=np.array([(t.linear_learning_rate, t.learning_rate) for t in tables], dtype=np.float32),
        knobs=np.array(
            [(t.init_std, t.initial_accumulator, t.l1, t.l2, t.beta, t.prior_variance) for t in tables],
            dtype=np.float64,
        ),
        admit_after=np.array([t.admit_after for t in tables], dtype=np.int64),
        chances=np.array([chance_of(t.admit_after) if t.admission == "probability" else 0.0 for t in tables]),
    )
