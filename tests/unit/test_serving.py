"""Serving codecs: what a reader holds, how far it is from what was learned, and how many bytes it takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import embedding_store.slabs
from embedding_store.plan import TablePlan
from embedding_store.serving import KINDS, encode
from embedding_store.settings import Accumulator, TableSettings
from embedding_store.shard import Shard
from embedding_store.slabs import READ_HEADER, WIDE_READ_HEADER
from embedding_store.statistics import Statistics
from tests.shards import SEED, pooled, see

LOSSY = ["float16", "int8"]
EVERY = [[key] for key in [*range(60), None]]


def bound(codec: str, vectors: np.ndarray) -> np.ndarray:
    """The documented error of each number of some vectors: float64[n, d]."""
    exact = np.abs(vectors.astype(np.float64))
    if codec == "float16":
        return np.maximum(exact * 2.0**-11, 2.0**-25)
    largest = exact.max(axis=1, keepdims=True)
    return np.broadcast_to(np.maximum(largest / 127 / 2 * (1 + 1e-5), 1e-42), exact.shape)


def reader_of(shard: Shard, codec: str, **more) -> Shard:
    """A reader that has applied everything that a learner changed."""
    reader = Shard(shard.tables, SEED, learning=False, layouts=shard.parts()["layouts"], codec=codec, **more)
    blocks, _ = shard.take_changes()
    for block in blocks:
        reader.apply(block)
    reader.clock_ms = shard.clock_ms
    return reader


def learned(dim: int = 6, ids: int = 50, **more) -> Shard:
    shard = Shard([TableSettings(name="t", dim=dim, **more)], SEED)
    rng = np.random.default_rng(dim)
    for round_ in range(4):
        see(shard, [[key] for key in range(ids)], rng.normal(size=(ids, 1, 1 + dim)), times_ms=1000 + round_)
    return shard


def held(codec: str, vector: list[float]) -> np.ndarray:
    """What one row's vector reads as, by the kernel that scores."""
    shard = Shard([TableSettings(name="t", dim=len(vector))], SEED)
    see(shard, [[1]])
    blocks, _ = shard.take_changes()
    row = next(block for block in blocks if not block.cold.all())
    row.entries["values"][~row.cold] = [0.5, *vector]
    reader = Shard(shard.tables, SEED, learning=False, codec=codec)
    reader.apply(row)
    found = pooled(reader, [[1]])[0, 0]
    assert found[0] == np.float32(0.5)
    return found[1:].astype(np.float64)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(codec=st.sampled_from(LOSSY), vector=st.lists(finite, min_size=1, max_size=9))
def test_every_number_is_within_its_codecs_bound(codec, vector):
    exact = np.array([vector], dtype=np.float32)
    if codec == "float16":
        exact = np.clip(exact, -65504, 65504)
    assert (np.abs(held(codec, vector) - exact[0].astype(np.float64)) <= bound(codec, exact)[0]).all()


def test_every_finite_float16_is_read_as_numpy_reads_it():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    for part in np.array_split(halves, 256):
        assert (held("float16", part.astype(np.float32).tolist()) == part.astype(np.float64)).all()


@pytest.mark.parametrize("codec", LOSSY)
def test_what_no_number_can_hold_stays_finite(codec):
    found = held(codec, [np.inf, -np.inf, np.nan, 1.0])
    largest = 65504.0 if codec == "float16" else 3.4e38
    np.testing.assert_allclose(found[:3], [largest, -largest, 0.0], rtol=1e-6)


def test_an_int8_row_by_hand():
    np.testing.assert_allclose(held("int8", [1.27, -1.0, 0.014, 0.0]), [1.27, -1.0, 0.01, 0.0], atol=1e-7)
    assert held("int8", [0.0, 0.0]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("dim", "half", "byte"), [(1, 1, 2), (2, 1, 2), (3, 2, 2), (5, 3, 3), (16, 8, 5)])
def test_a_strip_has_whole_words(dim, half, byte):
    values = np.ones((3, 1 + dim), dtype=np.float32)
    assert encode(KINDS["float32"], values, 1).shape == (3, 1 + dim)
    assert encode(KINDS["float16"], values, 1).shape == (3, 1 + half)
    assert encode(KINDS["int8"], values, 1).shape == (3, 1 + byte)


@pytest.mark.parametrize("more", [{}, {"drops": True}])
def test_float32_readers_hold_what_was_learned_bit_by_bit(more):
    shard = learned()
    assert (pooled(reader_of(shard, "float32", **more), EVERY) == pooled(shard, EVERY)).all()


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("more", [{}, {"drops": True}])
def test_lossy_readers_hold_linear_weights_exactly_and_vectors_within_bounds(codec, more):
    shard = learned()
    exact, found = pooled(shard, EVERY)[:, 0], pooled(reader_of(shard, codec, **more), EVERY)[:, 0]
    assert (found[:, 0] == exact[:, 0]).all()
    assert (np.abs(found[:, 1:].astype(np.float64) - exact[:, 1:]) <= bound(codec, exact[:, 1:])).all()
    assert (found[:, 1:] != exact[:, 1:]).any()


@pytest.mark.parametrize("codec", KINDS)
def test_a_plan_that_came_after_the_rows_is_read_as_the_learner_reads_it(codec):
    shard = learned()
    reader = reader_of(shard, codec)
    shard.set_plan("t", TablePlan((4,), ((1, 5), (0, 2, 5))))
    reader.load_layouts(shard.parts()["layouts"])
    exact, found = pooled(shard, EVERY)[:, 0], pooled(reader, EVERY)[:, 0]
    assert (found[:50, 2] == 0).all()
    width = 0 if codec == "float32" else np.abs(exact[:, 1:]).max() / 100
    assert np.abs(found - exact).max() <= width


@pytest.mark.parametrize("codec", KINDS)
def test_a_rows_place_is_used_again_when_its_layout_changes(codec):
    shard = learned()
    reader = reader_of(shard, codec)
    shard.set_plan("t", TablePlan((), ((0, 3),)))
    before = reader.rows.memory_bytes
    for plan in (TablePlan((), ((0, 3),)), None, TablePlan((), ((0, 3),))):
        shard.set_plan("t", plan)
        shard.settle()
        reader.load_layouts(shard.parts()["layouts"])
        for block in shard.take_changes()[0]:
            reader.apply(block)
    used = reader.rows.live_bytes
    assert used < before
    assert reader.rows.memory_bytes <= before + used
    assert np.abs(pooled(reader, EVERY) - pooled(shard, EVERY)).max() < 0.01


def test_gaussian_weights_keep_mean_and_variance_exactly():
    shard = learned(linear="gaussian", tasks=2, init_std=1.0)
    reader = reader_of(shard, "int8")
    ids = np.arange(50)
    for row, same in zip(shard.index.lookup(0, ids), reader.index.lookup(0, ids), strict=True):
        at, other = int(shard.rows.headers["at"][row]), int(reader.rows.headers["at"][same])
        assert (shard.rows.memory[at : at + 4] == reader.rows.memory[other : other + 4]).all()
    cold = int(reader.rows.headers["at"][0])
    assert reader.rows.memory[cold + 1] == shard.rows.memory[int(shard.rows.headers["at"][0]) + 1]


@pytest.mark.parametrize("codec", LOSSY)
def test_statistics_are_exact_whatever_the_codec(codec):
    sums = (Accumulator(kind="sum", of="x"), Accumulator(kind="last", of="x", length=3))
    shard = Shard([TableSettings(name="s", kind="statistics", dim=2 + 2 + 4, accumulators=sums)], SEED)
    ids, missing = np.arange(20).reshape(-1, 1), np.zeros((20, 1), dtype=np.bool_)
    times, origins = np.arange(20) + 1000, np.arange(20, dtype=np.uint64)
    learner = Statistics(shard, [0], ["x"])
    found, _ = learner.read(ids, missing, times)
    learner.update(ids, missing, found, times, origins, np.random.default_rng(0).normal(size=(20, 1)))
    reader = Statistics(reader_of(shard, codec), [0], ["x"])
    expected, found = learner.read(ids, missing, times + 5)[1], reader.read(ids, missing, times + 5)[1]
    assert expected[:, 0].any()
    np.testing.assert_array_equal(found, expected)


def test_the_rows_of_readers_are_listed_counted_and_cleared():
    shard = learned(expire_after="1s")
    reader = reader_of(shard, "float16")
    assert reader.live_rows(0).size == reader.counts[0] == 50
    assert reader.widths(0) == {"6": 50}
    reader.remove(0, np.array([3, 4, 99]))
    assert reader.live_rows(0).size == reader.counts[0] == 48
    reader.clock_ms += 5000
    assert reader.live_rows(0).size == 0
    reader.clear(0)
    assert reader.counts[0] == len(reader.index) == 0
    assert not pooled(reader, EVERY).any()


def test_strips_beyond_the_reach_of_short_headers_are_found_by_longer_ones(monkeypatch):
    shard = learned()
    reader = Shard(shard.tables, SEED, learning=False, layouts=shard.parts()["layouts"])
    (blocks, _), expected = shard.take_changes(), pooled(shard, EVERY)
    reader.clock_ms = shard.clock_ms
    for block in blocks:
        reader.apply(block)
    assert reader.rows.headers.dtype == READ_HEADER
    monkeypatch.setattr(embedding_store.slabs, "_NARROW_WORDS", 100)
    for block in blocks:
        reader.apply(block)
    assert reader.rows.headers.dtype == WIDE_READ_HEADER
    assert (pooled(reader, EVERY) == expected).all()


@pytest.mark.parametrize(("codec", "row_bytes"), [("float32", 68), ("float16", 36), ("int8", 24)])
def test_a_readers_row_of_16_numbers_takes_what_the_table_says(codec, row_bytes):
    reader = reader_of(learned(dim=16, ids=1000), codec)
    assert reader.rows.memory_bytes == row_bytes * 1001
    assert reader.rows.header_bytes == 18
