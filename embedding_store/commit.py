"""One commit as one log entry.

An entry is a magic number, a format version, and sections, each with a kind, a name and its bytes, then a checksum.
Kinds of this version: ``meta`` (JSON: what a commit is), ``rows`` (a table's changed rows of one width), ``gone`` (a
table's removed ids), and ``part`` (opaque bytes of whoever commits: dense weights, running means). A reader skips
kinds that it does not know; filter pages, plans and sequences get kinds of their own.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embedding_store.codec import FILTER, PAGE, Block, entry_dtype
from embedding_store.errors import BadBytes

_MAGIC = b"DLMC\x01\x00"
_SECTION = struct.Struct("<B H H B Q")  # kind, length of the name, dim, width of the state, length of the bytes
_META, _ROWS, _GONE, _PART, _PAGES = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True, order=True)
class CommitId:
    """A commit's number and the epoch of the owner that made it; a stream id of Redis."""

    seq: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.seq}-{self.epoch}"

    @classmethod
    def parse(cls, text: str | bytes) -> "CommitId":
        """Reads what ``str`` wrote.

        >>> CommitId.parse("7-2")
        CommitId(seq=7, epoch=2)
        """
        seq, _, epoch = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(seq), int(epoch))


ROOT = CommitId(0, 0)
"""The predecessor of the first commit."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything that changed since the predecessor.

    Attributes:
        clock_ms: Highest event time seen, ms since the epoch.
        definition: JSON of whoever defines tables and model; the whole of it in every commit.
        positions: By topic: its id and the next offset of each partition.
        blocks: Changed rows.
        gone: Removed ids by table, int64[n]; they apply before `blocks`.
        parts: Opaque sections by name, each the whole of its kind.
        dropped: Tables that go with all their rows, before anything else.
        appended: Examples by the time of their append to Kafka: pairs of (ms since the epoch, count).
        examples: Examples learned from since the predecessor.
    """

    clock_ms: int
    definition: bytes
    positions: Mapping[str, Any]
    blocks: list[Block] = field(default_factory=list)
    gone: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    appended: tuple[tuple[int, int], ...] = ()
    examples: int = 0

    @property
    def row_count(self) -> int:
        """Rows changed and ids gone."""
        return sum(block.entries.size for block in self.blocks) + sum(ids.size for ids in self.gone.values())


def encode(commit: Commit) -> bytes:
    """The bytes of one log entry."""
    meta = {
        "clock_ms": commit.clock_ms,
        "positions": commit.positions,
        "dropped": commit.dropped,
        "appended": commit.appended,
        "examples": commit.examples,
    }
    chunks = [_MAGIC]
    _add(chunks, _META, "meta", orjson.dumps(meta))
    _add(chunks, _META, "definition", commit.definition)
    for block in commit.blocks:
        if block.table == FILTER:
            _add(chunks, _PAGES, FILTER, block.entries.tobytes())
            continue
        dtype = block.entries.dtype
        dim, state = dtype["values"].shape[0] - 1, dtype["state"].shape[0]
        _add(chunks, _ROWS, block.table, np.ascontiguousarray(block.entries).tobytes(), dim, state)
    for table, ids in commit.gone.items():
        _add(chunks, _GONE, table, ids.astype("<i8").tobytes())
    for name, data in commit.parts.items():
        _add(chunks, _PART, name, data)
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
    return b"".join([*chunks, struct.pack("<I", checksum)])


def _add(chunks: list[bytes], kind: int, name: str, data: bytes, dim: int = 0, state: int = 0) -> None:
    encoded = name.encode()
    chunks += [_SECTION.pack(kind, len(encoded), dim, state, len(data)), encoded, data]


def decode(data: bytes) -> Commit:
    """The commit of one log entry.

    Raises:
        BadBytes: If the bytes are damaged or of another format.
    """
    if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + 4:
        raise BadBytes("a log entry is no commit of this format")
    if zlib.crc32(memoryview(data)[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise BadBytes("a log entry's checksum does not fit its bytes")
    meta: dict[str, Any] = {}
    definition = b""
    blocks, gone, parts = [], {}, {}
    at, end = len(_MAGIC), len(data) - 4
    while at < end:
        kind, name_bytes, dim, state, size = _SECTION.unpack_from(data, at)
        at += _SECTION.size
        name = data[at : at + name_bytes].decode()
        at += name_bytes
        body = data[at : at + size]
        at += size
        if kind == _META and name == "meta":
            meta = orjson.loads(body)
        elif kind == _META:
            definition = body
        elif kind == _ROWS:
            blocks.append(Block(name, np.frombuffer(body, dtype=entry_dtype(dim, state))))
        elif kind == _PAGES:
            blocks.append(Block(FILTER, np.frombuffer(body, dtype=PAGE)))
        elif kind == _GONE:
            gone[name] = np.frombuffer(body, dtype="<i8")
        elif kind == _PART:
            parts[name] = body
    return Commit(
        clock_ms=meta["clock_ms"],
        definition=definition,
        positions=meta["positions"],
        blocks=blocks,
        gone=gone,
        parts=parts,
        dropped=tuple(meta["dropped"]),
        appended=tuple((t, n) for t, n in meta["appended"]),
        examples=meta["examples"],
    )
