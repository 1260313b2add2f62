"""Arrays that grow: what was written stays, what is new is zero, with reserved addresses and without."""

import numpy as np
import pytest

from embedding_store.arena import Arena

WAYS = pytest.mark.parametrize("reserved", [None, 0, 1 << 16], ids=["reserved", "copied", "reserved-too-little"])


@WAYS
def test_what_was_written_stays_and_what_is_new_is_zero(reserved: int | None):
    arena = Arena(np.int64, (2,), 8, reserved)
    written = 0
    for rows in (9, 1000, 300_000, 700_000):
        arena.reserve(rows)
        assert arena.capacity >= rows
        assert arena.array.shape == (arena.capacity, 2)
        assert (arena.array[:written, 0] == np.arange(1, written + 1)).all()
        assert not arena.array[written:].any()
        arena.array[written:rows, 0] = np.arange(written + 1, rows + 1)
        written = rows


@WAYS
def test_room_that_is_there_already_moves_nothing(reserved: int | None):
    arena = Arena(np.float32, (), 100, reserved)
    before = arena.array
    arena.reserve(100)
    arena.reserve(5)
    assert arena.array is before


def test_a_record_that_fills_no_whole_number_of_pages_grows():
    kind = np.dtype([("id", "<i8"), ("count", "<u4"), ("odd", "u1", (3,))])
    arena = Arena(kind, (), 3)
    arena.array["count"][:3] = [1, 2, 3]
    arena.reserve(1_000_003)
    assert arena.array["count"][:3].tolist() == [1, 2, 3]
    assert arena.capacity == 1_000_003
    assert not arena.array["id"].any()
