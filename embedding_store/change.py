"""One step of a fold: what it does to which hashes, as the arguments of one script.

The script gets few and large arguments and cuts them itself: neither the trainer's interpreter nor the server handles
each row as an argument of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedding_store.keys import Keys

CHUNK_ROWS = 500
"""Rows that one command changes at most."""
CHUNK_BYTES = 256 << 10
"""Bytes of one command, unless a single row or part is larger."""

FOLD = """
local s = redis.call('HMGET', KEYS[1], 'epoch', 'mark')
if s[1] ~= ARGV[1] then return 'epoch' end
if (s[2] or '0-0') ~= ARGV[2] then return 'mark' end
local call, sub, byte = redis.call, string.sub, string.byte
local k, a = 3, 4
while ARGV[a] do
  local kind, name, hashes, counts, data = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 5], ARGV[a + 6]
  local field, record = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  a = a + 7
  local at, grown = 1, 0
  for i = 1, #counts / 2 do
    local key, low, high = KEYS[k], byte(counts, 2 * i - 1, 2 * i)
    k = k + 1
    if kind == 'unlink' then
      grown = grown - call('HLEN', key)
      call('UNLINK', key)
    else
      local words, n = {}, 0
      for _ = 1, low + 256 * high do
        words[n + 1] = sub(data, at, at + field - 1)
        n = n + 1
        if kind == 'set' then
          words[n + 1] = sub(data, at + field, at + record - 1)
          n = n + 1
        end
        at = at + record
      end
      if kind == 'set' then
        grown = grown + call('HSET', key, unpack(words))
      else
        grown = grown - call('HDEL', key, unpack(words))
      end
    end
  end
  if name ~= '' then
    if grown ~= 0 then call('HINCRBY', KEYS[2], 'rows:' .. name, grown) end
    if hashes > 0 then call('HSET', KEYS[2], 'hashes:' .. name, hashes) end
    if hashes == 0 then call('HDEL', KEYS[2], 'rows:' .. name, 'hashes:' .. name) end
  end
end
redis.call('HSET', KEYS[1], 'mark', ARGV[3])
return 'ok'
"""
"""KEYS: state, sizes, then the hashes in turn. ARGV: epoch, mark, new mark, then seven words a change."""

Kind = Literal["set", "delete", "unlink"]


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to some hashes.

    Attributes:
        kind: Whether fields are set, fields are deleted, or whole hashes go.
        table: Whose rows are counted; empty for the parts.
        keys: The hashes.
        counts: Fields of each hash, uint16[len(keys)].
        field_bytes: Of a field's name.
        record_bytes: Of a name and its value; of the name where fields are deleted.
        data: The records, hash after hash.
        hashes: The table's number of hashes from now on; 0: the table is forgotten; -1: as it was.
    """

    kind: Kind
    table: str
    keys: list[bytes]
    counts: NDArray[np.uint16]
    field_bytes: int = 0
    record_bytes: int = 0
    data: bytes = b""
    hashes: int = -1

    @property
    def rows(self) -> int:
        """How much work this is for the server, in rows."""
        return int(self.counts.sum()) if self.kind != "unlink" else len(self.keys)

    def words(self) -> list[str | int | bytes]:
        """The script's arguments."""
        counts = self.counts.astype("<u2").tobytes()
        return [self.kind, self.table, self.hashes, self.field_bytes, self.record_bytes, counts, self.data]


def part_change(key: str, name: str, value: bytes) -> Change:
    """Sets one field of the parts."""
    field = name.encode()
    return Change("set", "", [key.encode()], np.ones(1, np.uint16), len(field), len(field) + len(value), field + value)


def size_change(table: str, hashes: int) -> Change:
    """Sets a table's number of hashes; 0: forgets the table, whose hashes are gone."""
    return Change("set", table, [], np.zeros(0, np.uint16), hashes=hashes)


def unlink_changes(keys: Keys, table: str, hashes: range) -> Iterator[Change]:
    """Removes whole hashes."""
    for first in range(hashes.start, hashes.stop, CHUNK_ROWS):
        some = np.arange(first, min(first + CHUNK_ROWS, hashes.stop))
        yield Change("unlink", table, keys.row_names(table, some), np.zeros(some.size, np.uint16))


def record_changes(
    keys: Keys, table: str, places: NDArray[np.int64], records: NDArray[np.void], field_bytes: int
) -> Iterator[Change]:
    """Sets or deletes fields, as many at a time as one command should.

    Args:
        keys: Of the shard.
        table: Whose rows they are.
        places: The hash of each record, int64[n].
        records: void[n]: a field's name and its value, or the name alone to delete it.
        field_bytes: Of the name.
    """
    order = np.argsort(places, kind="stable")
    places, records = places[order], records[order]
    record_bytes = records.dtype.itemsize
    step = max(1, min(CHUNK_ROWS, CHUNK_BYTES // record_bytes))
    for first in range(0, places.size, step):
        some = places[first : first + step]
        starts = np.flatnonzero(np.concatenate([[True], some[1:] != some[:-1]]))
        counts = np.diff(np.append(starts, some.size)).astype(np.uint16)
        names = keys.row_names(table, some[starts])
        kind: Kind = "delete" if record_bytes == field_bytes else "set"
        yield Change(kind, table, names, counts, field_bytes, record_bytes, records[first : first + step].tobytes())


def batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Changes in their order, as many at a time as one command should make."""
    some: list[Change] = []
    rows = size = 0
    for change in changes:
        if some and (rows + change.rows > CHUNK_ROWS or size + len(change.data) > CHUNK_BYTES):
            yield some
            some, rows, size = [], 0, 0
        some.append(change)
        rows += change.rows
        size += len(change.data)
    if some:
        yield some
