"""Rows as bytes: round trips, and what is refused."""

import struct

import numpy as np
import pytest

from embedding_store.codec import COLD, COLD_FIELD, VERSION, Block, decode_rows, entry_dtype
from embedding_store.errors import BadBytes


def block(dim: int, ids: list[int], cold: int | None = None) -> Block:
    entries = np.zeros(len(ids), dtype=entry_dtype(dim, 2))
    entries["version"], entries["dim"], entries["id"] = VERSION, dim, ids
    entries["seq"], entries["last_seen"], entries["count"] = 3, 1_700_000_000_123, 9
    entries["values"] = np.arange(len(ids) * (1 + dim)).reshape(len(ids), -1) / 8
    entries["state"] = 0.5
    if cold is not None:
        entries["flags"][cold] = COLD
    return Block("t", entries)


def test_a_row_is_its_documented_bytes():
    row = block(2, [77]).rows()[0]
    assert row == struct.pack("<BBHIqI5f", 1, 0, 2, 3, 1_700_000_000_123, 9, 0.0, 0.125, 0.25, 0.5, 0.5)


def test_the_field_of_a_row_is_its_id_or_cold():
    assert block(2, [1, -2, 0], cold=2).fields() == [struct.pack("<q", 1), struct.pack("<q", -2), COLD_FIELD]


def test_rows_of_several_widths_come_back_as_blocks_of_one_width_each():
    first, second = block(2, [1, -2, 0], cold=2), block(5, [2**63 - 1])
    fields = [*first.fields(), *second.fields()]
    rows = [*first.rows(), *second.rows()]
    mixed = [2, 3, 0, 1]
    found = decode_rows("t", [fields[i] for i in mixed], [rows[i] for i in mixed], 2)
    by_dim = {b.entries["values"].shape[1] - 1: b for b in found}
    assert sorted(by_dim) == [2, 5]
    assert by_dim[5].entries.tobytes() == second.entries.tobytes()
    assert by_dim[2].entries.tobytes() == first.entries[[2, 0, 1]].tobytes()
    assert sorted(by_dim[2].fields()) == sorted(first.fields())


@pytest.mark.parametrize(
    "change", [lambda row: row[:-1], lambda row: row[:20], lambda row: row + b"x", lambda row: b""]
)
def test_a_row_whose_length_fits_no_width_is_refused(change):
    some = block(2, [1])
    with pytest.raises(BadBytes, match="table 't'"):
        decode_rows("t", some.fields(), [change(some.rows()[0])], 2)


@pytest.mark.parametrize(("place", "byte"), [(0, 2), (2, 3)])
def test_a_row_of_another_version_or_width_than_it_says_is_refused(place, byte):
    some = block(2, [1])
    row = bytearray(some.rows()[0])
    row[place] = byte
    with pytest.raises(BadBytes, match="another version or width"):
        decode_rows("t", some.fields(), [bytes(row)], 2)
