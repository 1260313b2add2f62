"""A file of many zstd frames with a checksum at its end, and blocks of rows as they stand in one.

Each frame holds exactly one MiB of the content, the last one what is left, so equal contents give equal bytes however
they were written. Behind them stands a skippable frame with a foot in JSON, its length and the CRC-32 of all that is
before: to other tools, too, the whole is a file of zstd.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import orjson
import zstandard

from embedding_store.codec import FILTER, PAGE, Block, entry_dtype
from embedding_store.errors import BadBytes

MAGIC = zstandard.FRAME_HEADER
_SKIPPABLE = struct.Struct("<I I")  # magic number, bytes that follow
_SKIPPABLE_MAGIC = 0x184D2A50
_TAIL = struct.Struct("<I I")  # length of the foot, checksum
_FRAME_BYTES = 1 << 20
_LEVEL = 3
_WINDOW_BYTES = 1 << 23


def row_dtype(values: int, state: int) -> np.dtype[np.void]:
    """An entry of so many values, the linear weight among them, and so many numbers of optimizer state."""
    return entry_dtype(values - 1, state)


class PackedWriter:
    """Writes such a file.

    Args:
        file: Open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packer = zstandard.ZstdCompressor(_LEVEL, write_checksum=True, write_content_size=True)
        self._pending = b""
        self._checksum = 0

    def write(self, data: bytes) -> None:
        """Appends to the content."""
        data = self._pending + data
        view = memoryview(data)
        at = 0
        while len(data) - at >= _FRAME_BYTES:
            self._put(self._packer.compress(view[at : at + _FRAME_BYTES]))
            at += _FRAME_BYTES
        self._pending = data[at:]

    def finish(self, foot: Mapping[str, Any]) -> None:
        """Writes what is left, the foot and the checksum."""
        if self._pending:
            self._put(self._packer.compress(self._pending))
        text = orjson.dumps(foot, option=orjson.OPT_SORT_KEYS)
        self._put(_SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(text) + _TAIL.size) + text + len(text).to_bytes(4, "little"))
        self._file.write(self._checksum.to_bytes(4, "little"))

    def _put(self, data: bytes) -> None:
        self._checksum = zlib.crc32(data, self._checksum)
        self._file.write(data)


def is_sound(file: BinaryIO) -> bool:
    """Whether the last four bytes are the checksum of all others. Leaves the file at its beginning."""
    left = max(0, file.seek(0, io.SEEK_END) - 4)
    file.seek(0)
    checksum = 0
    while left and (data := file.read(min(left, 1 << 22))):
        checksum = zlib.crc32(data, checksum)
        left -= len(data)
    sound = file.read(4) == checksum.to_bytes(4, "little")
    file.seek(0)
    return sound


def read_foot(file: BinaryIO) -> dict[str, Any]:
    """The foot of a sound file. Leaves the file at its beginning."""
    file.seek(-_TAIL.size, io.SEEK_END)
    size, _ = _TAIL.unpack(file.read(_TAIL.size))
    file.seek(-_TAIL.size - size, io.SEEK_END)
    foot: dict[str, Any] = orjson.loads(file.read(size))
    file.seek(0)
    return foot


class PackedReader:
    """Reads the content, from the beginning of the file.

    Every method may raise BadBytes, if the content ends too early or was packed by no one.
    """

    def __init__(self, file: BinaryIO) -> None:
        unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        self._content = io.BufferedReader(
            unpacker.stream_reader(file, read_across_frames=True, closefd=False), _FRAME_BYTES
        )

    def read(self, size: int) -> bytes:
        """So many bytes."""
        data = self._guarded(lambda: self._content.read(size))
        if len(data) != size:
            raise BadBytes("the content ends too early")
        return data

    def line(self, most: int = -1) -> dict[str, Any]:
        """One line of JSON, an object.

        Args:
            most: Bytes that are looked at.
        """
        data = self._guarded(lambda: self._content.readline(most))
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise BadBytes("a line is no object of JSON")
        return value

    def block(self) -> Block | None:
        """The next block, or None where they end."""
        head = self.line()
        if "end" in head:
            return None
        if head["table"] == FILTER:
            return Block(FILTER, np.frombuffer(self.read(head["rows"] * PAGE.itemsize), dtype=PAGE))
        dtype = row_dtype(head["values"], head["state"])
        return Block(head["table"], np.frombuffer(self.read(head["rows"] * dtype.itemsize), dtype=dtype))

    @staticmethod
    def _guarded(read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except zstandard.ZstdError as error:
            raise BadBytes(f"the content cannot be unpacked: {error}") from None


END = b'{"end":true}\n'
"""Behind the last block."""


def pack_block(block: Block) -> list[bytes]:
    """A block as it stands in a file: a line of JSON, then its entries."""
    entries = np.ascontiguousarray(block.entries)
    head: dict[str, Any] = {"table": block.table, "rows": entries.size}
    if block.table != FILTER:
        dtype = entries.dtype
        head |= {"values": dtype["values"].shape[0], "state": dtype["state"].shape[0]}
        head["layout"] = int(entries["layout"][0])
    return [orjson.dumps(head, option=orjson.OPT_SORT_KEYS) + b"\n", entries.tobytes()]
