"""Rows as people read them."""

from embedding_store.accumulators import row_width
from embedding_store.ids import feature_id, render_id
from embedding_store.sequences import row_width as sequence_width
from embedding_store.settings import Accumulator, TableSettings
from embedding_store.shown import shown

PLAIN = TableSettings(name="t", dim=2)
SOME = (
    Accumulator(kind="count", of="1"),
    Accumulator(kind="sum", of="x", half_life_ms=1000),
    Accumulator(kind="window_count", of="x", window_ms=8000),
    Accumulator(kind="last", of="x", length=3),
    Accumulator(kind="time", of="1", length=2),
    Accumulator(kind="time", of="x"),
)


def test_weights_are_a_linear_weight_and_a_vector_or_means_and_variances():
    assert shown(PLAIN, [0.5, 1.0, 2.0]) == {"linear": 0.5, "vector": [1.0, 2.0]}
    sure = TableSettings(name="t", dim=1, linear="gaussian", tasks=2)
    assert shown(sure, [0.5, 0.1, -0.5, 0.2, 7.0]) == {
        "weights": [{"mean": 0.5, "variance": 0.1}, {"mean": -0.5, "variance": 0.2}],
        "vector": [7.0],
    }


def test_statistics_are_shown_by_what_they_take_in_and_those_that_came_later_are_none():
    table = TableSettings(name="t", kind="statistics", accumulators=SOME, dim=row_width(SOME))
    window = [0.0, 9.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0]
    values = [1.0, 2.0, 5.0, 0.0, 1.5, 0.25, *window, 2.0, 8.0, 9.0, 0.0, 1.0, 3.0, 0.0, 0.0]
    found = shown(table, values)["accumulators"]
    assert [a["value"] for a in found] == [5.0, 1.75, 7.0, [8.0, 9.0], [(1 << 24) + 3], None]
    assert found[1] == {"kind": "sum", "of": "x", "half_life_ms": 1000, "value": 1.75}


def test_a_past_is_shown_with_ids_as_they_are_read():
    table = TableSettings(name="t", kind="sequence", length=3, dim=sequence_width(3))
    hashed = feature_id("some") + (1 << 64)
    thirds = [float(hashed & 0xFFFFFF), float(hashed >> 24 & 0xFFFFFF), float(hashed >> 48)]
    values = [2.0, 42.0, 0.0, 0.0, 1.0, 5.0, 1.0, *thirds, 0.0, 7.0, 0.5, *[0.0] * 6]
    assert shown(table, values)["items"] == [
        {"id": "42", "ts": (1 << 24) + 5, "outcome": 1.0},
        {"id": render_id(feature_id("some")), "ts": 7, "outcome": 0.5},
    ]
