"""A whole shard as of one commit, read from Redis in bounded memory and given out in canonical order.

The stored rows go into a temporary file first, part by part of the canonical order; what the log's tail says of them
is held in memory, and `store.log_bytes` bounds it. Only then is it known which commit it all is as of: rows are
folded while they are read, so a row in the file may be older or newer than that, but the tail has every such row.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard
from numpy.typing import NDArray

from embedding_store.bootstrap import Snapshot, read_shard, stored_schema
from embedding_store.codec import FILTER, Block, decode_rows
from embedding_store.commit import Commit, CommitId
from embedding_store.errors import LogTrimmed
from embedding_store.layout import Size, canonical_key, part_of_hashes
from embedding_store.log import CommitLog
from embedding_store.packed import END, PackedReader, pack_block, row_dtype
from embedding_store.rows import in_trips, read_hashes, read_sizes
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.shard import Shard
from embedding_store.tail import Tail

_HASHES_PER_PART = 256
"""At least so many, and less than twice as many; some ten thousand rows."""
_SPOOL_LEVEL = 1
_NO_FILTER = AdmissionSettings(memory=1 << 16)


class Spool:
    """Parts of tables in a temporary file.

    Args:
        file: Open for reading and writing; what it holds is lost.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[str, list[int]] = {}
        file.seek(0)
        file.truncate()

    def add(self, table: str, blocks: list[Block]) -> None:
        """Appends the next part of a table."""
        content = b"".join([piece for block in blocks if block.entries.size for piece in pack_block(block)] + [END])
        data = zstandard.ZstdCompressor(_SPOOL_LEVEL).compress(content)
        self._places.setdefault(table, []).append(self._file.seek(0, io.SEEK_END))
        self._file.write(data)

    def parts(self, table: str) -> int:
        """How many there are of a table."""
        return len(self._places.get(table, ()))

    def read(self, table: str, part: int) -> Iterator[Block]:
        """The blocks of one part."""
        self._file.seek(self._places[table][part])
        reader = PackedReader(self._file)
        while (block := reader.block()) is not None:
            yield block


@dataclass(slots=True)
class StoredShard(Snapshot):
    """A shard as of one commit. Its `shard` has everything but the rows.

    Attributes:
        spool: The rows as they were stored when each was read.
        tail: What happened to them past the mark.
        thin: Whether only the rows' headers are wanted: see :meth:`headers`.
    """

    spool: Spool = field(kw_only=True)
    tail: Tail = field(default_factory=Tail)
    thin: bool = False

    def apply(self, commit_id: CommitId, commit: Commit) -> None:
        """Goes one commit on."""
        self.tail.add(commit)
        pages = [block for block in commit.blocks if block.table == FILTER]
        emptied = {name: ids for name, ids in commit.gone.items() if name == FILTER}
        Snapshot.apply(self, commit_id, replace(commit, blocks=pages, gone=emptied))

    def read_rows(self, log: CommitLog, table: str) -> Iterator[None]:
        """Puts the stored rows of a table aside, some at each step."""
        if table == FILTER:
            yield from Snapshot.read_rows(self, log, table)
            return
        settings = self.shard.tables[self.shard.number[table]]
        size = read_sizes(log).get(table, Size())
        bits = max(0, (size.hashes // _HASHES_PER_PART).bit_length() - 1)
        for part in range(1 << bits):
            while True:
                blocks: list[Block] = []
                for trip in in_trips(part_of_hashes(part, bits, size.hashes)):
                    for _, fields, rows in read_hashes(log, table, trip):
                        blocks += decode_rows(settings, fields, rows)
                    yield
                before, size = size, read_sizes(log).get(table, Size())
                if size.hashes < before.hashes and bits:
                    raise LogTrimmed(f"table {table!r} was dropped while it was read")
                if size.hashes == before.hashes:
                    break  # no row has moved to another hash meanwhile
            self.spool.add(table, [_thinned(block) for block in blocks] if self.thin else blocks)

    def shards(self, table: TableSettings) -> Iterator[Shard]:
        """The rows of one table in canonical order, some in each shard, of which it is the only table.

        They are as the present plan has them. May be called once for each table.
        """
        tail = self.tail.take(table.name)
        schema = stored_schema(self.definition)
        layouts = self.shard.layouts.to_json()
        count = max(1, self.spool.parts(table.name))
        for part in range(count):
            low, high = (place * (1 << 64) // count for place in (part, part + 1))
            shard = Shard((table,), schema.seed, True, _NO_FILTER, layouts)
            shard.clock_ms = self.shard.clock_ms
            if self.spool.parts(table.name) and not tail.dropped:
                for block in self.spool.read(table.name, part):
                    shard.apply(block)
            shard.remove(0, tail.gone_within(low, high))
            for entries in tail.changed_within(low, high):
                shard.apply(Block(table.name, entries))
            if part == 0 and tail.cold is not None:
                shard.apply(tail.cold)
            shard.settle()
            yield shard

    def headers(self, table: TableSettings) -> Iterator[NDArray[np.void]]:
        """The headers of one table's rows, the cold row not among them, expired ones among them: entries[n] each.

        May be called once for each table.
        """
        tail = self.tail.take(table.name)
        count = max(1, self.spool.parts(table.name))
        for part in range(count):
            low, high = (place * (1 << 64) // count for place in (part, part + 1))
            changed = tail.changed_within(low, high)
            later = np.concatenate([tail.gone_within(low, high), *(entries["id"] for entries in changed)])
            if self.spool.parts(table.name) and not tail.dropped:
                for block in self.spool.read(table.name, part):
                    entries = block.entries[~block.cold]
                    yield entries[~np.isin(entries["id"], later)]
            yield from changed


def _thinned(block: Block) -> Block:
    """Rows without their numbers."""
    entries = np.empty(block.entries.size, dtype=row_dtype(0, 0))
    for name in entries.dtype.names or ():
        if name not in ("values", "state"):
            entries[name] = block.entries[name]
    return Block(block.table, entries)


def ordered_rows(shard: Shard, table: int) -> NDArray[np.int64]:
    """The rows of one table that are there and not expired, in canonical order, the cold row not among them."""
    rows = shard.live_rows(table)
    return rows[np.argsort(canonical_key(shard.rows.headers["id"][rows].astype(np.int64)))]


@contextmanager
def read_stored(
    log: CommitLog, lease_ms: int = 30_000, directory: Path | None = None, thin: bool = False
) -> Iterator[StoredShard | None]:
    """Reads a shard, up to the last commit.

    Args:
        log: Of the shard.
        lease_ms: How long trimming is held back after the last sign of life.
        directory: Where the temporary file lies; it takes about as much room as the rows.
        thin: Whether only the rows' headers are wanted.

    Yields:
        The shard, or None for an empty store.

    Raises:
        LogTrimmed: If the log was trimmed under the reader again and again.
        BadBytes: If something stored cannot be read.
        NotEmpty: If a load was broken off here.
        StoreUnavailable: If Redis did not answer.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        yield read_shard(
            log, True, lease_ms, stored_schema,
            lambda shard, mark: StoredShard(shard, mark, spool=Spool(file), thin=thin),
        )  # fmt: skip
