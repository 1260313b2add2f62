"""Rows as bytes: round trips, and what is refused."""

import struct
from typing import get_args

import numpy as np
import pytest

from embedding_store.codec import (
    COLD,
    COLD_FIELD,
    FILTER,
    PAGE_ENTRIES,
    VERSION,
    Block,
    decode_rows,
    entry_dtype,
    page_block,
)
from embedding_store.errors import BadBytes
from embedding_store.settings import STATE_WIDTHS, OptimizerName, TableSettings

TABLE = TableSettings(name="t", dim=9)


def block(dim: int, ids: list[int], cold: int | None = None, layout: int = 7) -> Block:
    entries = np.zeros(len(ids), dtype=entry_dtype(dim, 2))
    entries["version"], entries["layout"], entries["id"] = VERSION, layout, ids
    entries["seq"], entries["last_seen"], entries["count"] = 3, 1_700_000_000_123, 9
    entries["values"] = np.arange(len(ids) * (1 + dim)).reshape(len(ids), -1) / 8
    entries["state"] = 0.5
    if cold is not None:
        entries["flags"][cold] = COLD
    return Block("t", entries)


def test_a_row_is_its_documented_bytes():
    row = block(2, [77]).rows()[0]
    assert row == struct.pack("<BBHIqI5f", 1, 0, 7, 3, 1_700_000_000_123, 9, 0.0, 0.125, 0.25, 0.5, 0.5)


def test_the_field_of_a_row_is_its_id_or_cold():
    assert block(2, [1, -2, 0], cold=2).fields() == [struct.pack("<q", 1), struct.pack("<q", -2), COLD_FIELD]


def test_rows_of_several_layouts_come_back_as_blocks_of_one_layout_each():
    first, second, third = block(2, [1, -2, 0], cold=2), block(5, [2**63 - 1], layout=8), block(2, [4], layout=9)
    fields = [*first.fields(), *second.fields(), *third.fields()]
    rows = [*first.rows(), *second.rows(), *third.rows()]
    mixed = [2, 3, 0, 4, 1]
    found = decode_rows(TABLE, [fields[i] for i in mixed], [rows[i] for i in mixed])
    assert all(np.unique(b.entries["layout"]).size == 1 for b in found)
    by_layout = {int(b.entries["layout"][0]): b for b in found}
    assert sorted(by_layout) == [7, 8, 9]
    assert by_layout[8].entries.tobytes() == second.entries.tobytes()
    assert by_layout[9].entries.tobytes() == third.entries.tobytes()
    assert by_layout[7].entries.tobytes() == first.entries[[2, 0, 1]].tobytes()
    assert sorted(by_layout[7].fields()) == sorted(first.fields())


@pytest.mark.parametrize("linear", STATE_WIDTHS)
@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
@pytest.mark.parametrize("dim", [0, 1, 2, 9])
def test_a_rows_length_tells_its_width_whatever_the_optimizers(linear: str, optimizer: str, dim: int):
    table = TableSettings(name="t", dim=9, optimizer=optimizer, linear=linear)
    entries = np.ones(3, dtype=entry_dtype(dim, table.state_width(dim), table.lead))
    entries["flags"] = 0
    some = Block("t", entries)
    (found,) = decode_rows(table, some.fields(), some.rows())
    assert (found.entries.dtype, found.entries.tobytes()) == (entries.dtype, entries.tobytes())


def test_pages_of_the_filter_come_back_and_another_length_is_refused():
    pages = np.arange(2 * PAGE_ENTRIES, dtype=np.uint32).reshape(2, -1)
    some = page_block(np.array([5, 0]), pages)
    (found,) = decode_rows(None, some.fields(), some.rows())
    assert (found.table, found.entries.tobytes()) == (FILTER, some.entries.tobytes())
    with pytest.raises(BadBytes, match="a page of the admission filter"):
        decode_rows(None, some.fields(), [row[:-4] for row in some.rows()])


@pytest.mark.parametrize(
    "change", [lambda row: row[:-1], lambda row: row[:20], lambda row: row + b"x", lambda row: b""]
)
def test_a_row_whose_length_fits_no_width_is_refused(change):
    some = block(2, [1])
    with pytest.raises(BadBytes, match="table 't'"):
        decode_rows(TABLE, some.fields(), [change(some.rows()[0])])


def test_a_row_of_another_version_is_refused():
    some = block(2, [1])
    row = bytearray(some.rows()[0])
    row[0] = 2
    with pytest.raises(BadBytes, match="another version"):
        decode_rows(TABLE, some.fields(), [bytes(row)])
