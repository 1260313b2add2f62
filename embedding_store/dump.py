"""A shard as one canonical file: equal stores give equal bytes, and a loaded dump goes on identically.

It holds no commit numbers, epochs, topic ids, Kafka timestamps or wall-clock times; expired rows are left out whether
swept or not, and rows are as the present plans have them. The content of the packed file: a line of JSON (format,
clock, definition, offsets, parts), the opaque parts, then blocks. A table's blocks hold its cold row first, then its
rows in canonical order, so that neither reading nor writing has to hold or sort them all: so many rows at a time, and
of these a block for each layout. Pages of the admission filter come last. The foot tells how many rows there are.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from embedding_store.bootstrap import Snapshot
from embedding_store.change import Change, batches, size_change
from embedding_store.codec import FILTER, Block
from embedding_store.commit import ROOT, Commit, CommitId, encode
from embedding_store.errors import BadBytes, NotEmpty
from embedding_store.fold import Fold, drop
from embedding_store.layout import Size
from embedding_store.log import CommitLog, epoch_number
from embedding_store.packed import END, MAGIC, PackedReader, PackedWriter, is_sound, pack_block, read_foot
from embedding_store.rows import read_sizes
from embedding_store.shard import Shard
from embedding_store.stored import StoredShard, ordered_rows

_FORMAT = "dolmen-dump-2"
_GROUP_ROWS = 8192
_GROUP_PAGES = 256
_LOAD_BYTES = 8 << 20
_HEAD_BYTES = 1 << 26


def write_dump(file: BinaryIO, snapshot: Snapshot) -> int:
    """Writes a shard.

    Args:
        file: Open for writing.
        snapshot: The whole shard with optimizer state, in memory or as :class:`StoredShard` gives it out.

    Returns:
        How many rows it has, cold rows not counted.
    """
    shard = snapshot.shard
    names = sorted(shard.number)
    if isinstance(snapshot, StoredShard):
        tables = [_groups(snapshot.shards(shard.tables[shard.number[name]]), 0) for name in names]
    else:
        shard.settle()
        tables = [_groups([shard], shard.number[name]) for name in names]
    parts = {**snapshot.parts, **shard.parts()}
    head = {
        "format": _FORMAT,
        "clock_ms": shard.clock_ms,
        "definition": orjson.loads(snapshot.definition),
        "offsets": _offsets(snapshot.positions),
        "parts": {name: len(data) for name, data in parts.items()},
    }
    out = PackedWriter(file)
    out.write(orjson.dumps(head, option=orjson.OPT_SORT_KEYS) + b"\n")
    for name in sorted(parts):
        out.write(parts[name])
    rows = dict.fromkeys(names, 0)
    for name, groups in zip(names, tables, strict=True):
        for block in groups:
            block.entries["seq"] = 0
            rows[name] += block.entries.size
            _write_block(out, block)
    pages = shard.filter.all_pages().entries
    for first in range(0, pages.size, _GROUP_PAGES):
        _write_block(out, Block(FILTER, pages[first : first + _GROUP_PAGES]))
    out.write(END)
    out.finish({"rows": rows, "pages": int(pages.size)})
    return sum(rows.values()) - len(rows)


def _offsets(positions: Mapping[str, Any]) -> dict[str, Any]:
    return {topic: position["offsets"] for topic, position in positions.items()}


def _write_block(out: PackedWriter, block: Block) -> None:
    for piece in pack_block(block):
        out.write(piece)


def _groups(shards: Iterable[Shard], table: int) -> Iterator[Block]:
    """The blocks of one table, in an order and in sizes that only the rows decide.

    Args:
        shards: Settled, with the table's rows in canonical order.
        table: Its number in all of them.
    """
    left: list[Block] = []
    cold = [table]
    for shard in shards:
        for block in left:
            shard.apply(block)
        rows = np.concatenate([np.array(cold, dtype=np.int64), ordered_rows(shard, table)])
        whole = rows.size - rows.size % _GROUP_ROWS
        for first in range(0, whole, _GROUP_ROWS):
            yield from shard.blocks(rows[first : first + _GROUP_ROWS])
            cold = []
        left = shard.blocks(rows[whole:]) if whole < rows.size else []
    yield from left


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump file that was found sound.

    Attributes:
        path: Where it is.
        commit: All of it but the rows, as a commit; the positions without topic ids.
        counts: Rows of each table, its cold row included, and pages of the filter under its name.
    """

    path: Path
    commit: Commit
    counts: dict[str, int]

    @property
    def tables(self) -> list[str]:
        """The tables' names."""
        return [name for name in self.counts if name != FILTER]

    @property
    def rows(self) -> int:
        """Rows of all tables, cold rows not counted."""
        return sum(self.counts[name] - 1 for name in self.tables)

    def blocks(self) -> Iterator[Block]:
        """The rows and pages, some at a time."""
        with self.path.open("rb") as file:
            reader = PackedReader(file)
            for size in reader.line()["parts"].values():
                reader.read(size)
            while (block := reader.block()) is not None:
                yield block


def read_dump(path: Path) -> Dump:
    """Reads a dump's head, and checks that the whole file is as it was written.

    Raises:
        BadBytes: If the file is no dump, or damaged.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        head = _read_head(path, file)
        if head.get("format") != _FORMAT:
            raise BadBytes(
                f"{path}: the dump has format {head.get('format')!r}, this version reads {_FORMAT!r}; "
                "load it with the version that wrote it, and dump the store with this one"
            )
        if not is_sound(file):
            raise BadBytes(f"{path}: the checksum does not fit; the dump is damaged or cut short")
        foot = read_foot(file)
        reader = PackedReader(file)
        head = reader.line()
        parts = {name: reader.read(size) for name, size in sorted(head["parts"].items())}
    definition = orjson.dumps(head["definition"], option=orjson.OPT_SORT_KEYS)
    positions = {topic: {"topic_id": None, "offsets": offsets} for topic, offsets in head["offsets"].items()}
    counts = {**foot["rows"], **({FILTER: foot["pages"]} if foot["pages"] else {})}
    return Dump(path, Commit(head["clock_ms"], definition, positions, parts=parts), counts)


def _read_head(path: Path, file: BinaryIO) -> dict[str, Any]:
    """The first line of a dump of any version; nothing of it is believed yet. Leaves the file at its beginning."""
    try:
        if file.read(len(MAGIC)) == MAGIC:
            file.seek(0)
            head = PackedReader(file).line(_HEAD_BYTES)
        else:
            file.seek(0)
            head = orjson.loads(file.readline(_HEAD_BYTES))
        if not isinstance(head, dict) or "format" not in head:
            raise BadBytes
    except (orjson.JSONDecodeError, BadBytes):
        raise BadBytes(f"{path}: is no dump of a store") from None
    file.seek(0)
    return head


def load_dump(log: CommitLog, dump: Dump) -> CommitId:
    """Fills an empty store: the rows first, then one commit that makes them count.

    A load that was broken off leaves a store without a commit, which nobody takes for an empty one; loading again
    begins anew.

    Raises:
        NotEmpty: If the store holds a commit.
    """
    state = log.state()
    if not state.empty:
        raise NotEmpty(f"{log.keys.state}: the store holds commit {state.head}; `load` fills an empty one only")
    epoch = log.raise_epoch()
    mark = state.mark_text
    attempt, number = secrets.token_hex(4), 0

    def send(changes: list[Change]) -> None:
        nonlocal mark, number
        number += 1
        new = f"{ROOT}>load#{attempt}.{number}"
        log.fold(epoch, mark, new, changes)
        mark = new

    for name, size in read_sizes(log).items():
        drop(log.keys, name, size, send)
    sizes = {name: Size(Size(0, rows).wanted(0), 0) for name, rows in dump.counts.items()}
    send([size_change(name, size.hashes) for name, size in sizes.items()])
    cold: list[Block] = []
    for blocks in _some(dump.blocks()):
        cold += [Block(b.table, b.entries[b.cold]) for b in blocks if b.cold.any()]
        for some in batches(Fold([Commit(0, b"", {}, blocks)]).rows(log.keys, sizes)):
            send(some)
    first = CommitId(1, epoch_number(epoch))
    rest = Commit(dump.commit.clock_ms, dump.commit.definition, dump.commit.positions, cold, parts=dump.commit.parts)
    log.append(epoch, state.head, first, encode(rest))
    return first


def _some(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks, as many at a time as should be held at once."""
    some: list[Block] = []
    for block in blocks:
        some.append(block)
        if sum(b.entries.nbytes for b in some) >= _LOAD_BYTES:
            yield some
            some = []
    if some:
        yield some
