"""Round trips of rows and commits, and identity of values, over what hypothesis comes up with."""

from typing import get_args

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from embedding_store.codec import COLD, VERSION, Block, decode_rows, entry_dtype
from embedding_store.commit import Commit, decode, encode
from embedding_store.errors import BadBytes
from embedding_store.ids import feature_id
from embedding_store.settings import OptimizerName, TableSettings

IDS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False)
NAMES = st.text(min_size=1, max_size=12)
COUNTS = st.integers(0, 2**32 - 1)


def table_of(name: str, optimizer: str) -> TableSettings:
    return TableSettings.model_construct(name=name, dim=9, optimizer=optimizer)


@st.composite
def blocks(draw: st.DrawFn, optimizer: str = "adagrad") -> Block:
    dim, name = draw(st.integers(1, 9)), draw(NAMES)
    ids = draw(st.lists(IDS, max_size=12, unique=True))
    state = table_of(name, optimizer).state_width(dim)
    entries = np.zeros(len(ids), dtype=entry_dtype(dim, state))
    entries["version"], entries["layout"], entries["id"] = VERSION, draw(st.integers(0, 2**16 - 1)), ids
    for i in range(len(ids)):
        entries["seq"][i], entries["count"][i], entries["last_seen"][i] = draw(COUNTS), draw(COUNTS), draw(IDS)
        entries["values"][i] = draw(st.lists(FLOATS, min_size=1 + dim, max_size=1 + dim))
        entries["state"][i] = draw(FLOATS)
    if ids and draw(st.booleans()):
        entries["flags"][0], entries["id"][0] = COLD, 0
    return Block(name, entries)


def contents(found: list[Block]) -> list[tuple[str, int, bytes]]:
    return [(b.table, b.entries.dtype.itemsize, b.entries.tobytes()) for b in found]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(get_args(OptimizerName)).flatmap(lambda kind: st.tuples(st.just(kind), blocks(kind))))
def test_rows_come_back_from_their_fields_and_bytes(one: tuple[str, Block]) -> None:
    optimizer, block = one
    found = decode_rows(table_of(block.table, optimizer), block.fields(), block.rows())
    assert contents(found) == (contents([block]) if block.entries.size else [])


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(blocks(), max_size=3),
    gone=st.dictionaries(NAMES, st.lists(IDS, max_size=5), max_size=3),
    parts=st.dictionaries(NAMES, st.binary(max_size=40), max_size=3),
    dropped=st.lists(NAMES, max_size=2),
    definition=st.binary(max_size=30),
    clock_ms=st.integers(0, 2**53),
    flip=st.tuples(st.integers(0, 10**6), st.integers(1, 255)),
)
def test_commits_come_back_and_damage_is_noticed(blocks, gone, parts, dropped, definition, clock_ms, flip) -> None:
    arrays = {name: np.array(ids, dtype=np.int64) for name, ids in gone.items()}
    before = Commit(clock_ms, definition, {"t": {"offsets": {"0": 1}}}, blocks, arrays, parts, tuple(dropped))
    data = encode(before)
    after = decode(data)
    assert contents(after.blocks) == contents(blocks)
    assert {name: ids.tolist() for name, ids in after.gone.items()} == gone
    assert (dict(after.parts), after.dropped) == (parts, tuple(dropped))
    assert (after.definition, after.clock_ms) == (definition, clock_ms)
    damaged = bytearray(data)
    damaged[flip[0] % len(data)] ^= flip[1]
    with pytest.raises(BadBytes):
        decode(bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=22), st.from_regex(r"\A0?[0-9]{1,20}\Z")))
def test_a_value_is_an_integer_exactly_where_its_text_is_the_canonical_decimal_of_one(value) -> None:
    text = str(value)
    canonical = text in {str(int(text))} if text.isascii() and text.isdigit() else False
    found = feature_id(value)
    assert (found >= 0) == (canonical and int(text) < 2**63)
    assert found == (int(text) if found >= 0 else feature_id(text))
