"""A shard as one canonical file: equal stores give equal bytes, and a loaded dump goes on identically.

A line of JSON (format, clock, definition, offsets, tables), then every table's rows sorted by id with the cold row
first, then the opaque parts, then a checksum. It holds no commit numbers, epochs, topic ids, Kafka timestamps or
wall-clock times; expired rows are left out whether swept or not.
"""

import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from embedding_store.bootstrap import Snapshot, stored_schema
from embedding_store.change import Change, batches
from embedding_store.codec import FILTER, PAGE, Block, entry_dtype
from embedding_store.commit import ROOT, Commit, CommitId, encode
from embedding_store.errors import BadBytes, NotEmpty
from embedding_store.fold import Fold, drop, grow
from embedding_store.log import CommitLog, epoch_number
from embedding_store.rows import read_sizes

_FORMAT = "dolmen-dump-1"
_LOAD_ROWS = 100_000


class _Checked:
    """Counts a checksum along."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.checksum = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.checksum = zlib.crc32(data, self.checksum)


def write_dump(file: BinaryIO, snapshot: Snapshot) -> None:
    """Writes a shard.

    Args:
        file: Open for writing.
        snapshot: The whole shard, with optimizer state.
    """
    shard = snapshot.shard
    shard.settle()
    parts = {**snapshot.parts, **shard.parts()}
    out = _Checked(file)
    order = sorted(range(len(shard.tables)), key=lambda t: shard.tables[t].name)
    groups = [rows for t in order for rows in shard.by_layout(np.concatenate([[t], shard.live_rows(t)]))]
    pages = shard.filter.all_pages()
    head = {
        "format": _FORMAT,
        "clock_ms": shard.clock_ms,
        "definition": orjson.loads(snapshot.definition),
        "offsets": _offsets(snapshot.positions),
        "rows": [shard.describe(rows) for rows in groups],
        "pages": int(pages.entries.size),
        "parts": {name: len(data) for name, data in parts.items()},
    }
    out.write(orjson.dumps(head, option=orjson.OPT_SORT_KEYS) + b"\n")
    for rows in groups:
        for first in range(0, rows.size, _LOAD_ROWS):
            (block,) = shard.blocks(rows[first : first + _LOAD_ROWS])
            block.entries["seq"] = 0
            out.write(block.entries.tobytes())
    out.write(pages.entries.tobytes())
    for name in sorted(parts):
        out.write(parts[name])
    file.write(out.checksum.to_bytes(4, "little"))


def _offsets(positions: Mapping[str, Any]) -> dict[str, Any]:
    return {topic: position["offsets"] for topic, position in positions.items()}


@dataclass(slots=True)
class Dump:
    """What a dump file holds.

    Attributes:
        commit: All of it as one commit, the positions without topic ids.
    """

    commit: Commit
    rows: int = 0
    tables: list[str] = field(default_factory=list)


def read_dump(path: Path) -> Dump:
    """Reads a dump and checks it.

    Raises:
        BadBytes: If the file is no dump, or damaged.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        sound = _is_sound(file)
        try:
            head = orjson.loads(file.readline())
            if head["format"] != _FORMAT:
                raise BadBytes(f"{path}: the dump has format {head['format']!r}, this version reads {_FORMAT!r}")
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise BadBytes(f"{path}: is no dump of a store") from None
        if not sound:
            raise BadBytes(f"{path}: the checksum does not fit; the dump is damaged or cut short")
        definition = orjson.dumps(head["definition"], option=orjson.OPT_SORT_KEYS)
        settings = {table.name: table for table in stored_schema(definition).tables}
        blocks = []
        for group in head["rows"]:
            dtype = entry_dtype(group["dim"], settings[group["table"]].state_width(group["dim"]))
            data = file.read(group["rows"] * dtype.itemsize)
            blocks.append(Block(group["table"], np.frombuffer(data, dtype=dtype)))
        if head["pages"]:
            blocks.append(Block(FILTER, np.frombuffer(file.read(head["pages"] * PAGE.itemsize), dtype=PAGE)))
        parts = {name: file.read(head["parts"][name]) for name in sorted(head["parts"])}
    positions = {topic: {"topic_id": None, "offsets": offsets} for topic, offsets in head["offsets"].items()}
    commit = Commit(head["clock_ms"], definition, positions, blocks, parts=parts)
    return Dump(commit, sum(group["rows"] for group in head["rows"]) - len(settings), sorted(settings))


def _is_sound(file: BinaryIO) -> bool:
    """Whether the last four bytes are the checksum of all others; nothing of a damaged file is believed."""
    left = max(0, file.seek(0, 2) - 4)
    file.seek(0)
    checksum = 0
    while left and (data := file.read(min(left, 1 << 22))):
        checksum = zlib.crc32(data, checksum)
        left -= len(data)
    sound = file.read(4) == checksum.to_bytes(4, "little")
    file.seek(0)
    return sound


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
    fold = Fold([dump.commit])
    for some in batches(fold.rows(log.keys, grow(log, fold, send))):
        send(some)
    first = CommitId(1, epoch_number(epoch))
    cold = [Block(b.table, b.entries[b.cold]) for b in dump.commit.blocks]
    rest = Commit(dump.commit.clock_ms, dump.commit.definition, dump.commit.positions, cold, parts=dump.commit.parts)
    log.append(epoch, state.head, first, encode(rest))
    return first
