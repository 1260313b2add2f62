"""The featurizer: raw values to ids and numbers, the same from messages, columns and requests."""

import math
import re

import numpy as np
import pytest

from embedding_store.ids import feature_id
from tests.definitions import FEATURES, batch_of, cells, columns_of, contents, feature, message, small_definition
from trainer.batch import Batch
from trainer.example import Columns, request_to_columns
from trainer.features import Featurizer
from trainer.json_value import MISSING
from trainer.values import BadValue

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def one_field(kind="id", source="item.x", **more):
    """A definition whose first field is under test; the second keeps crosses and numbers company."""
    return small_definition((feature("x", kind, source, **more), feature("video", source="item.id")))


def items_of(*values, **message_fields):
    """A message with one item a value; MISSING leaves it out."""
    some = [{"id": 1, "labels": {"click": 1}, **({} if v is MISSING else {"x": v})} for v in values]
    return {"ts": 0, "user": {}, "items": some, **message_fields}


def ids_of(definition, *messages):
    return cells(batch_of(definition, messages), 0, len(Featurizer(definition).fields))


# Ids


def test_ids_are_those_of_the_store_and_missing_ones_are_marked():
    found = ids_of(one_field(), items_of(42, "42", "042", "drama", True, MISSING))
    assert found == [[42], [42], [feature_id("042")], [feature_id("drama")], [1], [None]]


@pytest.mark.parametrize("values", [("a", "b"), (1, 2), (1, "a"), (1, -1), (2**63, 1), (True, 3), (1, MISSING)])
def test_every_mix_of_kinds_gives_the_ids_of_each_value(values):
    expected = [[None if value is MISSING else feature_id(value)] for value in values]
    assert ids_of(one_field(), items_of(*values)) == expected


def test_a_users_value_holds_for_all_items_of_its_list():
    definition = one_field(source="user.x")
    found = ids_of(definition, items_of(1, 2, user={"x": "a"}), items_of(1, user={}), items_of(1, user={"x": 7}))
    assert found == [[feature_id("a")]] * 2 + [[None], [7]]


def test_deeper_paths_reach_into_objects():
    definition = one_field(source="user.a.b.c")
    deep = [{"a": {"b": {"c": 5}}}, {"a": {"b": 5}}, {"a": None}]
    assert ids_of(definition, *(items_of(1, user=user) for user in deep)) == [[5], [None], [None]]


@pytest.mark.parametrize(
    ("value", "kind"), [(1.5, "a float"), (None, "null"), ({"a": 1}, "an object"), (["a"], "a list")]
)
def test_a_value_that_can_be_no_id_is_named_with_its_place_and_remedy(value, kind):
    text = re.escape(f"`item.x`: an id must be an integer or a string, got {kind}; send it as a string")
    with pytest.raises(BadValue, match=text) as caught:
        batch_of(one_field(), [items_of(1, 2), items_of(3, value)])
    assert (caught.value.place, caught.value.source, caught.value.reason) == (3, "item.x", "value")


def test_a_bad_value_of_a_user_has_the_place_of_its_list():
    with pytest.raises(BadValue) as caught:
        batch_of(one_field(source="user.x"), [items_of(1, 2, 3), items_of(1, user={"x": 0.5})])
    assert (caught.value.place, caught.value.source) == (1, "user.x")


# Lists of ids


def test_lists_of_ids_may_be_empty_missing_or_one_value():
    found = ids_of(one_field("ids"), items_of(["a", 7], [], MISSING, 7, "a", [7, 7]))
    assert found == [[feature_id("a"), 7], [None], [None], [7], [feature_id("a")], [7, 7]]


def test_lists_of_a_user_are_repeated_for_each_item():
    definition = one_field("ids", "user.x")
    found = ids_of(definition, items_of(1, 2, user={"x": [1, 2]}), items_of(1, 2, 3), items_of(1, user={"x": [3]}))
    assert found == [[1, 2]] * 2 + [[None]] * 3 + [[3]]


@pytest.mark.parametrize(
    ("value", "kind"), [([1, 1.5], "a float"), ([None], "null"), (None, "null"), ([["a"]], "a list"), ({}, "an object")]
)
def test_a_bad_value_in_a_list_has_the_place_of_its_item(value, kind):
    with pytest.raises(BadValue, match=f"got {kind}") as caught:
        batch_of(one_field("ids"), [items_of([1, 2, 3], []), items_of(MISSING, value)])
    assert (caught.value.place, caught.value.source) == (3, "item.x")


def test_fields_of_several_ids_do_not_disturb_the_others():
    definition = small_definition(
        (feature("a", "ids", "item.a"), feature("video", source="item.id"), feature("b", "ids", "item.b"))
    )
    some = [{"id": 10 + i, "a": list(range(i)), "b": [100 + i] * (3 - i), "labels": {"click": 0}} for i in range(4)]
    batch = batch_of(definition, [{"ts": 0, "user": {}, "items": some}])
    assert cells(batch, 0, 3) == [[None], [0], [0, 1], [0, 1, 2]]
    assert cells(batch, 1, 3) == [[10], [11], [12], [13]]
    assert cells(batch, 2, 3) == [[100] * 3, [101] * 2, [102], [None]]


# Numbers


def test_a_value_falls_into_the_bucket_of_the_edges_that_it_reaches():
    definition = one_field("number", buckets=(0.0, 10.0, 60.0))
    values = (-0.1, 0, 9.99, 10, 59, 60.0, 1e9, MISSING, None, True)
    assert ids_of(definition, items_of(*values)) == [[i] for i in (0, 1, 1, 2, 2, 3, 3, None, None, 1)]


def test_numbers_are_taken_as_they_are_or_as_signed_logarithms():
    definition = small_definition(
        (
            feature("video", source="item.id"),
            feature("plain", "number", "item.x"),
            feature("log", "number", "item.x", transform="log"),
            feature("age", "number", "user.age"),
        )
    )
    batch = batch_of(definition, [items_of(3, -3, 0, MISSING, None, user={"age": 40}), items_of(True)])
    log = math.log(4)
    expected = [[3, log, 40], [-3, -log, 40], [0, 0, 40], [math.nan] * 2 + [40], [math.nan] * 2 + [40]]
    np.testing.assert_allclose(batch.numbers, [*expected, [1, math.log(2), math.nan]])


@pytest.mark.parametrize(("value", "kind"), [("3", "the string '3'"), ([1], "a list"), ({}, "an object")])
@pytest.mark.parametrize("more", [{}, {"buckets": (1.0,)}])
def test_what_is_no_number_is_named(value, kind, more):
    with pytest.raises(BadValue, match=re.escape(f"`item.x`: must be a number, got {kind}; leave it out")) as caught:
        batch_of(one_field("number", **more), [items_of(1, 2, value)])
    assert caught.value.place == 2


# Crosses


def cross_definition():
    return small_definition(
        (
            feature("ab", "cross", inputs=("a", "b")),
            feature("a", source="user.a"),
            feature("b", source="item.b"),
            feature("length", "number", "item.x", buckets=(5.0,)),
            feature("ba", "cross", inputs=("b", "a")),
            feature("all", "cross", inputs=("a", "b", "length")),
        )
    )


def cross_batch(rows):
    messages = [
        {"ts": 0, "user": {"a": a}, "items": [{"id": 0, "b": b, "x": x, "labels": {"click": 0}}]} for a, b, x in rows
    ]
    return batch_of(cross_definition(), messages)


def test_a_cross_is_an_id_of_the_pair_and_of_its_order():
    batch = cross_batch([(a, b, 0) for a in (1, 2, "x") for b in (1, 2, "y")])
    ab, ba = ([key for (key,) in cells(batch, field, 6)] for field in (0, 4))
    assert len(set(ab)) == len(set(ba)) == 9
    assert [one == other for one, other in zip(ab, ba, strict=True)] == [a == b for a in (1, 2, 3) for b in (1, 2, 4)]


def test_equal_pairs_have_equal_crosses():
    batch = cross_batch([(1, "y", 0), (1, "y", 9), ("1", "y", 0)])
    assert len({cell[0] for cell in cells(batch, 0, 6)}) == 1
    assert len({cell[0] for cell in cells(batch, 5, 6)}) == 2


def test_a_cross_with_a_missing_input_is_missing():
    messages = [
        {"ts": 0, "user": user, "items": [{"id": 0, "labels": {"click": 0}, **item}]}
        for user, item in [({"a": 1}, {}), ({}, {"b": 2, "x": 1}), ({"a": 1}, {"b": 2}), ({"a": 1}, {"b": 2, "x": 1})]
    ]
    batch = batch_of(cross_definition(), messages)
    assert [cell[0] is None for cell in cells(batch, 0, 6)] == [True, True, False, False]
    assert [cell[0] is None for cell in cells(batch, 5, 6)] == [True, True, True, False]


def test_half_a_million_pairs_have_different_crosses():
    rows = np.arange(700)
    columns = Columns(
        np.full(700, 700), np.zeros(700, dtype=np.int64),
        {"user.a": rows.astype(np.int64), "item.b": np.tile(rows, 700).astype(np.int64)},
        np.zeros((490_000, 1), dtype=np.float32), np.ones(490_000, dtype=np.float32),
    )  # fmt: skip
    definition = small_definition(
        (feature("a", source="user.a"), feature("b", source="item.b"), feature("ab", "cross", inputs=("a", "b"))),
        tasks=["click"],
    )
    ids = Featurizer(definition).featurize(columns).occurrences.ids.reshape(-1, 3)
    assert np.unique(ids[:, 2]).size == 490_000


# Time


@pytest.mark.parametrize(
    ("ts", "hour", "weekday"),
    [
        (0, 0, 3),  # 1970-01-01 was a Thursday
        (HOUR_MS - 1, 0, 3),
        (23 * HOUR_MS, 23, 3),
        (4 * DAY_MS, 0, 0),  # Monday, 5 January 1970
        (4 * DAY_MS - 1, 23, 6),
        (1_650_844_800_000, 0, 0),  # Monday, 25 April 2022, 00:00
        (1_709_210_096_000, 12, 3),  # Thursday, 29 February 2024, 12:34:56
        (1_767_225_599_999, 23, 2),  # Wednesday, 31 December 2025, 23:59:59.999
    ],
)
def test_hour_and_weekday_are_those_of_utc(ts, hour, weekday):
    definition = small_definition((feature("h", source="time.hour"), feature("w", source="time.weekday")))
    batch = batch_of(definition, [items_of(1, 2, ts=ts)])
    assert cells(batch, 0, 2) == [[hour]] * 2
    assert cells(batch, 1, 2) == [[weekday]] * 2


# The same from messages, columns and requests


def test_messages_and_columns_of_a_data_set_agree():
    definition = small_definition()
    rng = np.random.default_rng(1)
    messages = [message(rng) for _ in range(50)]
    expected = batch_of(definition, messages)
    from_messages = columns_of(definition, messages)
    values = dict(from_messages.values)
    assert all(type(value) is str for value in values["item.id"])
    for source in ("item.length_s", "item.plays", "user.profile.age"):
        values[source] = np.array([math.nan if v is MISSING else v for v in values[source]], dtype=np.float64)
    columns = Columns(from_messages.sizes, from_messages.ts, values, from_messages.labels, from_messages.weights)
    assert contents(Featurizer(definition).featurize(columns)) == contents(expected)


def test_an_array_of_integers_gives_the_ids_of_its_integers():
    definition = one_field()
    listed = [0, 5, 2**62, -3, 7]
    for some in (listed, [abs(value) for value in listed]):
        columns = Columns(
            np.array([5]),
            np.array([0]),
            {"item.x": np.array(some, dtype=np.int64)},
            np.zeros((5, 2), dtype=np.float32),
            np.ones(5, dtype=np.float32),
        )
        assert cells(Featurizer(definition).featurize(columns), 0, 2) == [[feature_id(value)] for value in some]


def test_a_source_that_is_not_there_is_missing_everywhere():
    definition = small_definition()
    columns = Columns(
        np.array([2, 1]), np.array([0, 0]), {}, np.zeros((3, 2), dtype=np.float32), np.ones(3, dtype=np.float32)
    )
    batch = Featurizer(definition).featurize(columns)
    fields = [f.name for f in Featurizer(definition).fields]
    for f, name in enumerate(fields):
        assert cells(batch, f, len(fields)) == [[0 if name == "hour" else None]] * 3
    assert np.isnan(batch.numbers).all()


def test_a_request_is_featurized_as_the_example_that_it_becomes():
    definition = small_definition()
    rng = np.random.default_rng(2)
    featurizer = Featurizer(definition)
    for _ in range(20):
        example = message(rng)
        expected = featurizer.featurize(columns_of(definition, [example]))
        request = featurizer.featurize(
            request_to_columns(example["ts"], example["user"], example["context"], example["items"], featurizer.sources)
        )
        for part in (0, 1, 2, 3, 4, 7):
            assert contents(request)[part] == contents(expected)[part]


def test_the_order_of_fields_numbers_and_tables_is_the_definitions():
    featurizer = Featurizer(small_definition())
    names = [f.name for f in FEATURES]
    assert [f.name for f in featurizer.fields] == names[:7]
    assert list(featurizer.numbers) == names[7:]
    tables = [table.name for table in small_definition().tables]
    assert [tables[t] for t in featurizer.of_store.tables] == [
        "user", "video", "tags", "tags", "hour", "length", "user_x_length",
    ]  # fmt: skip
    assert featurizer.of_store.means.tolist() == [True, True, True, False, True, True, True]
    assert featurizer.sources == tuple(sorted({f.source for f in FEATURES if f.source}))


def test_a_value_is_featurized_the_same_again_and_leaves_the_columns_alone():
    definition = small_definition()
    rng = np.random.default_rng(3)
    columns = columns_of(definition, [message(rng) for _ in range(10)])
    before = {source: list(values) for source, values in columns.values.items()}
    featurizer = Featurizer(definition)
    assert contents(featurizer.featurize(columns)) == contents(featurizer.featurize(columns))
    assert {source: list(values) for source, values in columns.values.items()} == before


# Batches


def test_a_batch_is_cut_by_the_list_that_reaches_the_size():
    definition = one_field()
    batch = batch_of(definition, [items_of(*range(n)) for n in (3, 1, 5, 2, 2, 1)])
    assert [part.sizes.tolist() for part in batch.cuts(4)] == [[3, 1], [5], [2, 2], [1]]
    assert [part.sizes.tolist() for part in batch.cuts(1)] == [[3], [1], [5], [2], [2], [1]]
    assert [part.sizes.tolist() for part in batch.cuts(100)] == [[3, 1, 5, 2, 2, 1]]
    assert contents(Batch.join(batch.cuts(4))) == contents(batch)
