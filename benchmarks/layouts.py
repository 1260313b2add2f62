"""Ways to lay rows in Redis, behind one interface."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_store.change import CHUNK_ROWS, Change, batches, record_changes, size_change
from embedding_store.codec import entry_dtype
from embedding_store.layout import Size, hash_of
from embedding_store.log import CommitLog
from embedding_store.rows import fetch_rows, scan_rows

DTYPE = entry_dtype(16, 2)
ROW = DTYPE.itemsize
PAGE = 64
Ids = NDArray[np.int64]
Records = NDArray[np.void]
_SET_KEYS = """
local f, w, at = 8, tonumber(ARGV[1]), 1
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], string.sub(ARGV[2], at + f, at + w - 1))
  at = at + w
end
"""
_SET_PAGES = """
local w, at = tonumber(ARGV[1]), 1
for i = 1, #KEYS do
  redis.call('SETRANGE', KEYS[i], ARGV[i + 2], string.sub(ARGV[2], at, at + w - 1))
  at = at + w
end
"""


def random_rows(ids: Ids, rng: np.random.Generator) -> Records:
    """Rows of random numbers, as the trainer commits them."""
    entries = np.zeros(ids.size, dtype=DTYPE)
    entries["id"], entries["version"] = ids, 1
    entries["values"] = rng.normal(size=(ids.size, 17))
    entries["state"] = rng.random(size=(ids.size, 2))
    return entries.view(f"V{ROW}")


class Layout(Protocol):
    """A way to keep rows."""

    def write(self, ids: Ids, rows: Records) -> None:
        """Adds or changes rows."""

    def read(self, ids: Ids) -> int:
        """Reads single rows; how many were found."""

    def scan(self) -> int:
        """Reads all; how many rows came."""


Make = Callable[[CommitLog, Ids], Layout]


class Hashes:
    """Rows as fields of a number of hashes, by the product's own script."""

    def __init__(self, log: CommitLog, hashes: int) -> None:
        self.log, self.hashes = log, hashes
        self.epoch, self.mark, self.number = log.raise_epoch(), "0-0", 0
        self._send([size_change("t", hashes)])

    def _send(self, changes: list[Change]) -> None:
        self.number += 1
        new = f"0-0>1-1#{self.number}"
        self.log.fold(self.epoch, self.mark, new, changes)
        self.mark = new

    def _changes(self, ids: Ids, rows: Records) -> Iterator[Change]:
        yield from record_changes(self.log.keys, "t", hash_of(ids, self.hashes), rows, 8)

    def write(self, ids: Ids, rows: Records) -> None:
        """Adds or changes rows."""
        for some in batches(self._changes(ids, rows)):
            self._send(some)

    def read(self, ids: Ids) -> int:
        """Reads single rows; how many were found."""
        found = fetch_rows(self.log, {"t": ids}, {"t": Size(self.hashes, 0)})["t"]
        return sum(row is not None for row in found)

    def scan(self) -> int:
        """Reads all; how many rows came."""
        return sum(len(fields) for _, fields, _ in scan_rows(self.log, "t"))


class Halves(Hashes):
    """Each row as two fields, so that neither value is longer than the server's default limit of 64 bytes."""

    def _changes(self, ids: Ids, rows: Records) -> Iterator[Change]:
        raw = rows.view(np.uint8).reshape(ids.size, ROW)
        half = 8 + (ROW - 8) // 2
        places = hash_of(ids, self.hashes)
        first = np.ascontiguousarray(raw[:, :half]).view(f"V{half}").ravel()
        rest = np.concatenate([raw[:, :8], np.ones((ids.size, 1), np.uint8), raw[:, half:]], axis=1)
        second = np.ascontiguousarray(rest).view(f"V{rest.shape[1]}").ravel()
        yield from record_changes(self.log.keys, "t", places, first, 8)
        yield from record_changes(self.log.keys, "t", places, second, 9)

    def read(self, ids: Ids) -> int:
        """Reads single rows; how many were found."""
        pipe = self.log.client.pipeline(transaction=False)
        for name, raw in zip(self.log.keys.row_names("t", hash_of(ids, self.hashes)), ids.tolist(), strict=True):
            field = int(raw).to_bytes(8, "little")
            pipe.hmget(name, [field, field + b"\x01"])
        return sum(None not in row for row in pipe.execute())


class KeyEach:
    """One key a row."""

    def __init__(self, log: CommitLog) -> None:
        self.log = log
        self.script = log.client.register_script(_SET_KEYS)

    def _names(self, ids: Ids) -> list[bytes]:
        raw = ids.astype("<i8").tobytes()
        return [b"d:{s0}:" + raw[i : i + 8] for i in range(0, len(raw), 8)]

    def write(self, ids: Ids, rows: Records) -> None:
        """Adds or changes rows."""
        for first in range(0, ids.size, CHUNK_ROWS):
            some = slice(first, first + CHUNK_ROWS)
            self.script(keys=self._names(ids[some]), args=[ROW, rows[some].tobytes()])

    def read(self, ids: Ids) -> int:
        """Reads single rows; how many were found."""
        return sum(row is not None for row in self.log.client.mget(self._names(ids)))

    def scan(self) -> int:
        """Reads all; how many rows came."""
        count = cursor = 0
        while True:
            cursor, keys = self.log.client.scan(cursor, count=4000)
            count += sum(row is not None for row in self.log.client.mget(keys)) if keys else 0
            if cursor == 0:
                return count


class Pages:
    """Rows side by side in strings. The writer must remember the place of each; so must who reads a single one."""

    def __init__(self, log: CommitLog, ids: Ids) -> None:
        self.log = log
        self.script = log.client.register_script(_SET_PAGES)
        self.order = np.argsort(ids)
        self.ids = ids[self.order]

    def _places(self, ids: Ids) -> list[int]:
        places: list[int] = self.order[np.searchsorted(self.ids, ids)].tolist()
        return places

    def write(self, ids: Ids, rows: Records) -> None:
        """Adds or changes rows."""
        for first in range(0, ids.size, CHUNK_ROWS):
            some = slice(first, first + CHUNK_ROWS)
            places = self._places(ids[some])
            names = [f"d:{{s0}}:p:{place // PAGE:07x}" for place in places]
            offsets = [place % PAGE * ROW for place in places]
            self.script(keys=names, args=[ROW, rows[some].tobytes(), *offsets])

    def read(self, ids: Ids) -> int:
        """Reads single rows; how many were found."""
        pipe = self.log.client.pipeline(transaction=False)
        for place in self._places(ids):
            pipe.getrange(f"d:{{s0}}:p:{place // PAGE:07x}", place % PAGE * ROW, place % PAGE * ROW + ROW - 1)
        return sum(len(row) == ROW for row in pipe.execute())

    def scan(self) -> int:
        """Reads all; how many rows came."""
        names = [f"d:{{s0}}:p:{page:07x}" for page in range(-(-self.ids.size // PAGE))]
        return sum(
            len(page) // ROW
            for first in range(0, len(names), 64)
            for page in self.log.client.mget(names[first : first + 64])
        )
