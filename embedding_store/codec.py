"""Rows as bytes: a versioned header, the values, the optimizer's state. Little-endian, packed.

======= ====== ===========================================================================================
version uint8  1
flags   uint8  bit 0: the table's cold row, whose id means nothing
layout  uint16 which numbers of the vector the row holds
seq     uint32 the commit that changed the row last
seen    int64  event time of the last sighting, ms since the epoch
count   uint32 sightings
values  float32[lead + d], the linear weight (or means and variances) and the kept numbers of the vector
state   float32[S], of the optimizer
======= ====== ===========================================================================================

Pages of the admission filter travel the same way, as rows of a hidden table whose ids are page numbers.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from embedding_store.errors import BadBytes
from embedding_store.settings import TableSettings

VERSION = 1
COLD = 1
ID_BYTES = 8
COLD_FIELD = b"cold"
FILTER = "#filter"
"""The hidden table of filter pages; no real table can have this name."""
PAGE_ENTRIES = 1024
_HEADER = [
    ("version", "u1"),
    ("flags", "u1"),
    ("layout", "<u2"),
    ("seq", "<u4"),
    ("last_seen", "<i8"),
    ("count", "<u4"),
]
HEADER_BYTES = np.dtype(_HEADER).itemsize
PAGE = np.dtype([("id", "<i8"), ("page", "<u4", (PAGE_ENTRIES,))])
"""A page number and the page's entries."""


@cache
def entry_dtype(dim: int, state_width: int, lead: int = 1) -> np.dtype[np.void]:
    """An id and its row, as a commit's section holds them one after another."""
    return np.dtype([("id", "<i8"), *_HEADER, ("values", "<f4", (lead + dim,)), ("state", "<f4", (state_width,))])


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one table and one layout, or pages of the admission filter.

    Attributes:
        table: The table's name, or FILTER.
        entries: entry_dtype[n] or PAGE[n].
    """

    table: str
    entries: NDArray[np.void]

    @property
    def cold(self) -> NDArray[np.bool_]:
        """Which of them is the cold row: bool[n]."""
        if self.table == FILTER:
            return np.zeros(self.entries.size, dtype=np.bool_)
        return np.asarray(self.entries["flags"] & COLD != 0)

    def fields(self) -> list[bytes]:
        """The hash field of each row: its 8-byte id, or ``cold``."""
        ids = self.entries["id"].tobytes()
        fields = [ids[i : i + ID_BYTES] for i in range(0, len(ids), ID_BYTES)]
        for i in np.flatnonzero(self.cold).tolist():
            fields[i] = COLD_FIELD
        return fields

    def rows(self) -> list[bytes]:
        """The bytes of each row, without its id."""
        size = self.entries.dtype.itemsize
        data = np.ascontiguousarray(self.entries).tobytes()
        return [data[i + ID_BYTES : i + size] for i in range(0, len(data), size)]


def page_block(numbers: NDArray[np.int64], pages: NDArray[np.uint32]) -> Block:
    """Pages uint32[n, PAGE_ENTRIES] with their numbers int64[n]."""
    entries = np.empty(numbers.size, dtype=PAGE)
    entries["id"] = numbers
    entries["page"] = pages
    return Block(FILTER, entries)


def decode_found(table: TableSettings, ids: NDArray[np.int64], rows: list[bytes | None]) -> list[Block]:
    """Rows of single ids, int64[n], None where there is none; otherwise as :func:`decode_rows`."""
    names = ids.astype("<i8").tobytes()
    there = [(names[ID_BYTES * i : ID_BYTES * (i + 1)], row) for i, row in enumerate(rows) if row is not None]
    return decode_rows(table, [name for name, _ in there], [row for _, row in there])


def decode_rows(table: TableSettings | None, fields: list[bytes], rows: list[bytes]) -> list[Block]:
    """What :meth:`Block.fields` and :meth:`Block.rows` gave, as blocks of one layout each.

    Args:
        table: Whose rows; None for the filter's pages.
        fields: Hash fields.
        rows: Their values.

    Raises:
        BadBytes: If a row has another version or a length that does not fit its header.
    """
    if table is None:
        if any(len(row) != PAGE.itemsize - ID_BYTES for row in rows):
            raise BadBytes("a page of the admission filter has another length")
        return [Block(FILTER, np.frombuffer(b"".join(f + r for f, r in zip(fields, rows, strict=True)), dtype=PAGE))]
    names = _names(fields)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    data, starts = np.frombuffer(b"".join(rows), dtype=np.uint8), np.cumsum(lengths) - lengths
    blocks = []
    for size in np.unique(lengths).tolist():
        dim = table.dim_of((size - HEADER_BYTES) // 4)
        sound = dim >= 0 and table.lead + dim > 0
        dtype = entry_dtype(dim, table.state_width(dim), table.lead) if sound else None
        if dtype is None or size != dtype.itemsize - ID_BYTES:
            raise BadBytes(f"table {table.name!r}: a row of {size} bytes fits no width")
        same = np.flatnonzero(lengths == size)
        joined = np.empty((same.size, dtype.itemsize), dtype=np.uint8)
        joined[:, :ID_BYTES] = names[same]
        joined[:, ID_BYTES:] = (
            data.reshape(-1, size) if same.size == len(rows) else data[starts[same, None] + np.arange(size)]
        )
        entries = joined.view(dtype).ravel()
        if (entries["version"] != VERSION).any():
            raise BadBytes(f"table {table.name!r}: a row was written by another version")
        layouts = entries["layout"]
        blocks += [
            Block(table.name, entries if (layouts == layout).all() else entries[layouts == layout])
            for layout in np.unique(layouts).tolist()
        ]
    return blocks


def _names(fields: list[bytes]) -> NDArray[np.uint8]:
    """The ids of hash fields, 0 for what is none: uint8[n, 8]."""
    joined = b"".join(fields)
    if len(joined) != ID_BYTES * len(fields) or COLD_FIELD in fields:
        joined = b"".join(field if len(field) == ID_BYTES else bytes(ID_BYTES) for field in fields)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, ID_BYTES)
