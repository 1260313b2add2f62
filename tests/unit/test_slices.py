"""Slices: what value each example has, and under what name it is told."""

import numpy as np
import pytest

from tests.definitions import TASKS, feature
from trainer.example import Coded, examples_to_columns
from trainer.json_value import MISSING
from trainer.slices import OTHER, Slices

FEATURES = (
    feature("user", source="user.id"),
    feature("tags", "ids", "item.tags"),
    feature("length", "number", "item.length_s", buckets=(10.0, 60.0)),
    feature("age", "number", "user.age"),
    feature("user_x_length", "cross", inputs=("user", "length")),
)
MESSAGES = (
    {
        "ts": 1_700_000_000_000,
        "user": {"id": 7},
        "context": {"country": "FR"},
        "items": [
            {"id": "a", "length_s": 5, "labels": {"click": 1}},
            {"id": "b", "length_s": 60.0, "labels": {"click": 0}},
        ],
    },
    {
        "ts": 1_700_003_600_000,
        "user": {"id": "7", "age": 3.5},
        "context": {"country": ["FR"]},
        "items": [{"id": "c", "labels": {"click": 0}}],
    },
    {"ts": 1_700_003_600_000, "user": {"id": -3}, "items": [{"id": "c", "length_s": 59, "labels": {"click": 0}}]},
)


def values(name, messages=MESSAGES):
    """The value of each example in one slice, as told."""
    slices = Slices([name], FEATURES)
    ids = slices.ids(examples_to_columns(messages, slices.sources, TASKS))
    assert ids.shape == (sum(len(m["items"]) for m in messages), 1)
    return [slices.value(0, key) for key in ids[:, 0].tolist()]


def test_a_string_keeps_its_name_and_an_integer_its_digits():
    assert values("user") == ["7", "7", "7", "-3"]
    assert values("item.id") == ["a", "b", "c", "c"]


def test_a_source_that_no_feature_reads_is_a_slice_and_never_makes_an_example_faulty():
    assert values("context.country") == ["FR", "FR", OTHER, "missing"]


def test_a_number_with_buckets_is_told_by_its_edges():
    assert values("length") == ["< 10", ">= 60", "missing", "10 to 60"]


def test_the_hour_is_that_of_the_event():
    assert values("time.hour") == ["22", "22", "23", "23"]


def test_a_number_that_is_no_id_belongs_to_no_value():
    assert values("user.age") == ["missing", "missing", OTHER, "missing"]


CODED = Coded(np.array([1, 0]), np.array([4, "3"], dtype=object))


@pytest.mark.parametrize("column", [np.array([3, 4]), np.array([3.0, 4.0]), [3, 4], ["3", "4"], [3, "4"], CODED])
def test_arrays_and_lists_of_the_same_values_are_alike(column):
    slices = Slices(["item.id"])
    columns = examples_to_columns(MESSAGES[:1], slices.sources, TASKS)
    columns.values["item.id"] = column
    assert slices.ids(columns).tolist() == [[3], [4]]


def test_coded_numbers_fall_into_buckets():
    slices = Slices(["length"], FEATURES)
    columns = examples_to_columns(MESSAGES[:1], slices.sources, TASKS)
    columns.values["item.length_s"] = Coded(np.array([1, 0]), np.array([5, MISSING], dtype=object))
    assert [slices.value(0, key) for (key,) in slices.ids(columns).tolist()] == ["missing", "< 10"]


def test_an_array_of_numbers_has_missing_ones_and_some_that_are_no_id():
    slices = Slices(["item.id"])
    columns = examples_to_columns(MESSAGES[:1], slices.sources, TASKS)
    columns.values["item.id"] = np.array([np.nan, 0.5])
    assert [slices.value(0, key) for (key,) in slices.ids(columns).tolist()] == ["missing", OTHER]


def test_names_are_bounded_but_outlive_a_generation_of_strings(monkeypatch):
    monkeypatch.setattr("trainer.slices._GENERATION", 10)
    slices = Slices(["item.id"])

    def keys(names):
        message = {"ts": 1, "user": {}, "items": [{"id": name, "labels": {"click": 0}} for name in names]}
        return slices.ids(examples_to_columns([message], slices.sources, TASKS))[:, 0].tolist()

    (first,) = keys(["first"])
    keys([f"x{i}" for i in range(12)])
    assert slices.value(0, first) == "first"
    keys([f"y{i}" for i in range(12)])
    assert slices.value(0, first).startswith("#")
    assert keys(["first"]) == [first]
    assert slices.value(0, first) == "first"
    (long,) = keys(["é" * 1000])
    assert slices.value(0, long) == "é" * 64


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("tags", "is a feature of kind ids"),
        ("user_x_length", "is a feature of kind cross"),
        ("age", "number without `buckets`"),
        ("country", "neither a feature nor a source"),
        ("label.click", "neither a feature nor a source"),
        ("time.minute", "neither a feature nor a source"),
    ],
)
def test_a_name_that_is_no_slice_is_refused_by_key_and_name(name, fault):
    with pytest.raises(ValueError, match=f"trainer.slices: '{name}' .*{fault}"):
        Slices(["user", name], FEATURES)


def test_a_name_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"trainer\.slices: 'user' is given twice"):
        Slices(["user", "user"], FEATURES)
