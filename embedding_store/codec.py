"""Rows as bytes: a versioned header, the values, the optimizer's state. Little-endian, packed.

======= ====== ===========================================================================================
version uint8  1
flags   uint8  bit 0: the table's cold row, whose id means nothing
dim     uint16 numbers of the vector that follow the linear weight
seq     uint32 the commit that changed the row last
seen    int64  event time of the last sighting, ms since the epoch
count   uint32 sightings
values  float32[1 + dim]
state   float32[S]
======= ====== ===========================================================================================
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from embedding_store.errors import BadBytes

VERSION = 1
COLD = 1
ID_BYTES = 8
COLD_FIELD = b"cold"
_HEADER = [("version", "u1"), ("flags", "u1"), ("dim", "<u2"), ("seq", "<u4"), ("last_seen", "<i8"), ("count", "<u4")]


@cache
def entry_dtype(dim: int, state_width: int) -> np.dtype[np.void]:
    """An id and its row, as a commit's section holds them one after another."""
    return np.dtype([("id", "<i8"), *_HEADER, ("values", "<f4", (1 + dim,)), ("state", "<f4", (state_width,))])


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one table and one width.

    Attributes:
        table: The table's name.
        entries: entry_dtype[n].
    """

    table: str
    entries: NDArray[np.void]

    def fields(self) -> list[bytes]:
        """The hash field of each row: its 8-byte id, or ``cold``."""
        ids = self.entries["id"].tobytes()
        fields = [ids[i : i + ID_BYTES] for i in range(0, len(ids), ID_BYTES)]
        for i in np.flatnonzero(self.entries["flags"] & COLD).tolist():
            fields[i] = COLD_FIELD
        return fields

    def rows(self) -> list[bytes]:
        """The bytes of each row, without its id."""
        size = self.entries.dtype.itemsize
        data = np.ascontiguousarray(self.entries).tobytes()
        return [data[i + ID_BYTES : i + size] for i in range(0, len(data), size)]


def decode_rows(table: str, fields: list[bytes], rows: list[bytes], state_width: int) -> list[Block]:
    """What :meth:`Block.fields` and :meth:`Block.rows` gave, as blocks of one width each.

    Raises:
        BadBytes: If a row has another version or a length that does not fit its header.
    """
    by_size: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_size.setdefault(len(row), []).append(i)
    blocks = []
    for size, places in by_size.items():
        dim = (size - np.dtype(_HEADER).itemsize) // 4 - 1 - state_width
        if dim < 1 or size != entry_dtype(dim, state_width).itemsize - ID_BYTES:
            raise BadBytes(f"table {table!r}: a row of {size} bytes fits no width")
        data = b"".join((bytes(ID_BYTES) if len(fields[i]) != ID_BYTES else fields[i]) + rows[i] for i in places)
        entries = np.frombuffer(data, dtype=entry_dtype(dim, state_width))
        if (entries["version"] != VERSION).any() or (entries["dim"] != dim).any():
            raise BadBytes(f"table {table!r}: a row has another version or width than its bytes")
        blocks.append(Block(table, entries))
    return blocks
