"""A commit as one log entry: round trips, damage, and sections of a later version."""

import struct
import zlib

import numpy as np
import pytest

from embedding_store.codec import PAGE_ENTRIES, VERSION, Block, entry_dtype, page_block
from embedding_store.commit import ROOT, Commit, CommitId, decode, encode
from embedding_store.errors import BadBytes


def commit() -> Commit:
    entries = np.zeros(2, dtype=entry_dtype(3, 2))
    entries["version"], entries["layout"], entries["id"] = VERSION, 3, [1, -1]
    entries["values"] = 0.25
    return Commit(
        clock_ms=123,
        definition=b'{"tables": []}',
        positions={"events": {"topic_id": "x", "offsets": {"0": 7}}},
        blocks=[
            Block("a", entries),
            Block("b", np.zeros(0, dtype=entry_dtype(1, 2))),
            page_block(np.array([3]), np.ones((1, PAGE_ENTRIES), dtype=np.uint32)),
        ],
        gone={"a": np.array([5, -(2**63)])},
        parts={"dense": b"\x00\x01\x02", "nothing": b""},
        dropped=("old",),
        appended=((1000, 3), (1010, 4)),
        examples=7,
    )


def with_checksum(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def section(kind: int, name: bytes, data: bytes) -> bytes:
    return struct.pack("<BHHBQ", kind, len(name), 0, 0, len(data)) + name + data


def test_a_commit_comes_back_as_it_was():
    before = commit()
    after = decode(encode(before))
    for name in ("clock_ms", "definition", "positions", "parts", "dropped", "appended", "examples"):
        assert getattr(after, name) == getattr(before, name)
    assert [(b.table, b.entries.dtype, b.entries.tobytes()) for b in after.blocks] == [
        (b.table, b.entries.dtype, b.entries.tobytes()) for b in before.blocks
    ]
    assert {name: ids.tolist() for name, ids in after.gone.items()} == {"a": [5, -(2**63)]}
    assert after.row_count == before.row_count == 5


def test_the_smallest_commit_comes_back():
    after = decode(encode(Commit(0, b"{}", {})))
    assert (after.blocks, dict(after.gone), dict(after.parts), after.dropped, after.row_count) == ([], {}, {}, (), 0)


def test_every_flipped_byte_is_noticed():
    data = encode(commit())
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        with pytest.raises(BadBytes):
            decode(bytes(damaged))


def test_every_cut_is_noticed():
    data = encode(commit())
    for size in range(len(data)):
        with pytest.raises(BadBytes):
            decode(data[:size])


def test_sections_of_an_unknown_kind_are_skipped():
    body = encode(commit())[:-4]
    magic = body[:6]
    later = magic + section(200, b"plan", b"\xff" * 50) + body[6:] + section(77, b"", b"")
    after = decode(with_checksum(later))
    assert (after.clock_ms, len(after.blocks), dict(after.parts)) == (123, 3, dict(commit().parts))


def test_another_format_version_is_refused():
    body = bytearray(encode(commit())[:-4])
    body[4] = 2
    with pytest.raises(BadBytes, match="no commit of this format"):
        decode(with_checksum(bytes(body)))


def test_a_commit_id_reads_back_and_orders_by_number_then_epoch():
    assert CommitId.parse(str(CommitId(7, 2))) == CommitId.parse(b"7-2") == CommitId(7, 2)
    assert ROOT < CommitId(1, 9) < CommitId(2, 1) < CommitId(2, 2) < CommitId(10, 1)
