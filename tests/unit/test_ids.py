"""Identity of values: what is one id, and what is no id at all."""

import re

import numpy as np
import pytest

from embedding_store.errors import BadId
from embedding_store.ids import feature_id, feature_ids, render_id

XXH3_OF_NOTHING = 0x2D06800538D394C2
"""XXH3-64 of no bytes with seed 0, from the reference implementation's test vectors."""


@pytest.mark.parametrize("value", [0, 1, 42, 2**31, 2**53 + 1, 2**63 - 1])
def test_an_integer_in_range_is_its_own_id(value):
    assert feature_id(value) == value
    assert feature_id(str(value)) == value


@pytest.mark.parametrize(
    "text", ["042", "00", "+1", "-1", " 1", "1 ", "1.0", "", "1e3", "٣", "²", "9223372036854775808"]
)
def test_a_string_that_is_no_canonical_decimal_has_an_id_of_the_strings_half(text):
    assert -(2**63) <= feature_id(text) < 0


@pytest.mark.parametrize("value", [-1, -42, 2**63, 2**64 - 1, -(2**63)])
def test_an_integer_out_of_range_is_the_string_of_its_digits(value):
    assert feature_id(value) == feature_id(str(value)) < 0


def test_booleans_are_zero_and_one():
    assert [feature_id(False), feature_id(True)] == [0, 1]


def test_a_string_hashes_by_xxh3_with_the_top_bit_set():
    assert feature_id("") % 2**64 == XXH3_OF_NOTHING | 1 << 63


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1.5, "a float"), (1.0, "a float"), ({}, "an object"), ([1], "a list"), (None, "null"), (b"x", "bytes")],
)
def test_what_can_be_no_id_is_named_with_the_remedy(value, kind):
    with pytest.raises(BadId, match=re.escape(f"got {kind}; send it as a string, or leave it out")):
        feature_id(value)


def test_many_values_have_the_ids_that_each_has_alone():
    values = [3, "3", "x", True, -1, "042"]
    ids = feature_ids(values)
    assert ids.dtype == np.int64
    assert ids.tolist() == [feature_id(value) for value in values]


def test_two_hundred_thousand_strings_and_integers_never_meet():
    ids = feature_ids([*range(100_000), *(f"s{i}" for i in range(100_000))])
    assert np.unique(ids).size == 200_000


def test_an_id_is_shown_as_digits_or_as_sixteen_hexadecimal_digits():
    assert render_id(2**63 - 1) == "9223372036854775807"
    assert render_id(-(2**63)) == "#8000000000000000"
    assert render_id(feature_id("")) == "#ad06800538d394c2"
