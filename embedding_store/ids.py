"""A raw feature value becomes a 64-bit id inside its table.

Integers map one to one, so two of them never meet. Other strings hash by xxh3-64 with the top bit set, so a string
never meets an integer. Among n strings of one table, the chance that any two share an id is at most n² / 2^64: for 10
million strings about 1 in 184,000.

Ids are held as int64 with the same bits, so a hashed string is a negative number.
"""

from collections.abc import Sequence
from typing import NewType

import numpy as np
import xxhash
from numpy.typing import NDArray

from embedding_store.errors import BadId

FeatureId = NewType("FeatureId", int)
"""A 64-bit id as a signed integer, -2^63 to 2^63 - 1."""

_TOP = 1 << 63
_SPAN = 1 << 64


def feature_id(value: object) -> FeatureId:
    """The id of one value. Deterministic.

    Args:
        value: An integer, a boolean (0 or 1) or a string. A string that is the canonical decimal of an integer from 0
            to 2^63 - 1 is that integer. An integer outside that range is the string of its digits.

    Raises:
        BadId: If the value is anything else; the message names the remedy.

    >>> feature_id(42) == feature_id("42"), feature_id("042") == feature_id("42"), feature_id(True)
    (True, False, 1)
    >>> feature_id("drama") < 0
    True
    """
    kind = type(value)
    if kind is int or kind is bool:
        if 0 <= value < _TOP:  # type: ignore[operator]  # an integer, by the line above
            return FeatureId(int(value))  # type: ignore[call-overload]  # likewise
        value = str(value)
    elif kind is not str:
        name = (
            "null" if value is None else {float: "a float", dict: "an object", list: "a list"}.get(kind, kind.__name__)
        )
        raise BadId(
            f"an id must be an integer or a string, got {name}; send it as a string, or leave it out if unknown"
        )
    text: str = value  # type: ignore[assignment]  # a string, by the lines above
    if text.isascii() and text.isdigit() and len(text) <= 19 and (text[0] != "0" or len(text) == 1):
        number = int(text)
        if number < _TOP:
            return FeatureId(number)
    return FeatureId((xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) | _TOP) - _SPAN)


def feature_ids(values: Sequence[object]) -> NDArray[np.int64]:
    """The ids of many values, int64[N].

    Raises:
        BadId: As :func:`feature_id`.
    """
    return np.fromiter(map(feature_id, values), dtype=np.int64, count=len(values))


def render_id(value: int) -> str:
    """An id as people read it: an integer's digits, or ``#`` and 16 hexadecimal digits for a hashed string.

    >>> render_id(42), render_id(-1)
    ('42', '#ffffffffffffffff')
    """
    return str(value) if value >= 0 else f"#{value + _SPAN:016x}"
