"""Every way to hold a table passes the same checks; then what each promises beside."""

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from embedding_store.encodings.counts import fixed_counts
from embedding_store.encodings.encoding import INDEX_BYTES, Encoding, footprint
from embedding_store.encodings.frequency import frequency_dims
from embedding_store.encodings.masked import Masked
from embedding_store.encodings.nested import Nested
from embedding_store.encodings.projections import Projections
from embedding_store.encodings.selection import make, make_all
from embedding_store.encodings.settings import EncodingSettings
from embedding_store.errors import BadBytes
from embedding_store.index import HashIndex
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, pooled, see

K = 8
ROTATION = np.linalg.qr(np.random.default_rng(5).normal(size=(K, K)))[0]
PLAN = {"bounds": [2, 4], "kept": [[1], [0, 1, 5], list(range(K))], "matrix": ROTATION.tolist()}
KINDS: dict[str, dict[str, object]] = {
    "uniform": {"kind": "uniform"},
    "uniform 3": {"kind": "uniform", "dim": 3},
    "low rank": {"kind": "low_rank", "rank": 3},
    "frequency": {"kind": "frequency", "bounds": (2, 4), "power": 0.7},
    "frequency by masks": {"kind": "frequency", "bounds": (2, 4), "power": 0.7, "projection": False},
    "masked": {"kind": "masked", "plan": PLAN},
    "hashed": {"kind": "hashed", "buckets": 64},
    "hashed twice": {"kind": "hashed", "buckets": 64, "hashes": 2},
    "unified": {"kind": "unified", "buckets": 128, "hashes": 2},
    "nested": {"kind": "nested", "prefixes": (2, 4, K)},
    "int8": {"kind": "int8"},
    "int8 of low rank": {"kind": "int8", "of": {"kind": "low_rank", "rank": 3}},
}
COLLISIONLESS = [name for name in KINDS if not name.startswith(("hashed", "unified"))]
every = pytest.mark.parametrize("name", KINDS)


def counts_of(ids: np.ndarray) -> np.ndarray:
    """Known beforehand: 0 to 5."""
    return np.abs(ids) % 6


def table(name: str, **more: object) -> TableSettings:
    settings = {"init_std": 0.5, "learning_rate": 0.1} | more
    return TableSettings(name="t", dim=K, encoding=EncodingSettings.model_validate(KINDS[name]), **settings)


def made(name: str, seed: int = 1, **more: object) -> Encoding:
    return make(table(name, **more), seed, counts_of)


def gradient(ids: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ids.size, K)).astype(np.float32)


def plain_sgd(name: str) -> Encoding:
    """One whose Adagrad steps are 1e-3 times the gradient, for its accumulator is so large."""
    return made(name, initial_accumulator=1e6, learning_rate=1.0, init_std=1.0)


@every
def test_equal_seeds_and_batches_give_equal_bits(name):
    ids = np.array([3, 1, -7, 3, 2**62, 9])
    first, second, other = made(name), made(name), made(name, seed=2)
    for step in range(4):
        for each in (first, second, other):
            each.learn(ids, gradient(ids, step))
    assert first.vectors(ids).tobytes() == second.vectors(ids).tobytes()
    assert first.vectors(ids).tobytes() != other.vectors(ids).tobytes()


@every
def test_reading_changes_nothing_and_unseen_ids_have_vectors(name):
    encoding = made(name)
    encoding.learn(np.array([1, 2]), gradient(np.array([1, 2])))
    before, unseen = footprint([encoding]), np.array([77, -77, np.iinfo(np.int64).min])
    found = encoding.vectors(unseen)
    assert found.shape == (3, K)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (encoding.vectors(unseen) == found).all()
    assert footprint([encoding]) == before
    assert encoding.vectors(np.empty(0, dtype=np.int64)).shape == (0, K)


@every
def test_inputs_are_left_untouched(name):
    encoding, ids = made(name), np.array([4, 4, 5])
    given = gradient(ids)
    encoding.learn(ids, given)
    assert ids.tolist() == [4, 4, 5]
    assert (given == gradient(ids)).all()


@every
@pytest.mark.parametrize("optimizer", ["adagrad", "adagrad_elementwise", "adam", "ftrl"])
def test_an_id_that_is_seen_twice_in_a_batch_takes_one_step_of_the_sum(name, optimizer):
    twice, once = made(name, optimizer=optimizer), made(name, optimizer=optimizer)
    g = gradient(np.arange(3))
    twice.learn(np.array([8, 4, 8]), g)
    once.learn(np.array([8, 4]), np.stack([g[0] + g[2], g[1]]))
    ids = np.array([8, 4])
    np.testing.assert_allclose(twice.vectors(ids), once.vectors(ids), rtol=1e-5, atol=1e-6)


@every
def test_a_step_is_the_transpose_of_what_is_read(name):
    """A gradient step moves the vectors by -rate J Jᵀ g, which is symmetric in what is asked and what is moved."""
    ids = np.array([3, 1, 7, 3, 12, 9])
    g, h = gradient(ids, 1), gradient(ids, 2)
    moves = []
    for some in (g, h):
        encoding = plain_sgd(name)
        before = encoding.vectors(ids, "float32")
        encoding.learn(ids, some)
        if isinstance(encoding, Nested):  # the next batch's prefix may be another
            moves.append(encoding.served(K).vectors(ids) - plain_sgd(name).served(K).vectors(ids))
            continue
        moves.append(encoding.vectors(ids, "float32").astype(np.float64) - before)
    assert (g * moves[0]).sum() < 0
    np.testing.assert_allclose((h * moves[0]).sum(), (g * moves[1]).sum(), rtol=5e-3, atol=1e-5)


@every
def test_a_small_step_lowers_a_loss_by_what_its_gradient_says(name):
    ids = np.arange(20)
    wanted = gradient(ids, 3).astype(np.float64)

    def loss(some: Encoding) -> float:
        return float(((some.vectors(ids, "float32") - wanted) ** 2).sum() / 2)

    encoding = plain_sgd(name)
    if isinstance(encoding, Nested):
        encoding = encoding.served(4)
    before, vectors = loss(encoding), encoding.vectors(ids, "float32")
    g = (vectors - wanted).astype(np.float32)
    encoding.learn(ids, g)
    first_order = (g * (encoding.vectors(ids, "float32").astype(np.float64) - vectors)).sum()
    assert first_order < 0
    assert loss(encoding) - before == pytest.approx(first_order, rel=0.02)


@every
def test_it_learns_a_toy_factorisation(name):
    rng = np.random.default_rng(7)
    users, items = rng.normal(size=(30, 2)), rng.normal(size=(20, 2))
    truth = (users @ items.T).astype(np.float32)
    of_users = make(table(name, init_std=0.1), 1, lambda ids: np.full(ids.size, 5))
    of_items = make(table(name, init_std=0.1), 2, lambda ids: np.full(ids.size, 5))

    def loss() -> float:
        some = [e.served(K) if isinstance(e, Nested) else e for e in (of_users, of_items)]
        predicted = some[0].vectors(np.arange(30)) @ some[1].vectors(np.arange(20)).T
        return float(((predicted - truth) ** 2).mean())

    before = loss()
    for _ in range(150):
        u, i = rng.integers(0, 30, 128), rng.integers(0, 20, 128)
        p, q = of_users.vectors(u), of_items.vectors(i)
        error = ((p * q).sum(1) - truth[u, i])[:, None]
        of_users.learn(u, error * q)
        of_items.learn(i, error * p)
    assert loss() < 0.4 * before


LEARNED = np.array([0, 1, 2, 3, 4, 5, 6])  # counts 0 to 5 and 0: three ids in block 0, two in each of the others
BY_HAND = {  # parameters; bytes
    "uniform": (7 * 8, 7 * (32 + INDEX_BYTES)),
    "uniform 3": (7 * 3, 7 * (12 + INDEX_BYTES)),
    "low rank": (7 * 3 + 3 * 8, 7 * (12 + INDEX_BYTES) + 96),
    # dimensions 8 * (1/4)^0.7 = 3.03, 8 * (2/4)^0.7 = 4.92, 8; projections of 3 and 5 rows
    "frequency": (3 * 3 + 2 * 5 + 2 * 8 + 8 * 8, 4 * (35 + 64) + 7 * (INDEX_BYTES + 1) + 3 * (4 + 1)),
    "frequency by masks": (3 * 3 + 2 * 5 + 2 * 8, 4 * 35 + 7 * (INDEX_BYTES + 1) + 3 * (4 + 1)),
    "masked": (3 * 1 + 2 * 3 + 2 * 8, 4 * 25 + 7 * (INDEX_BYTES + 1) + 3 * (4 + 1) + 4 * 64),
    "hashed": (64 * 8, 64 * 32),
    "hashed twice": (64 * 8, 64 * 32),
    "unified": (128 * 4, 128 * 16),
    "nested": (7 * 8, 7 * (32 + INDEX_BYTES)),
    "int8": (7 * 8, 7 * (4 + 8 + INDEX_BYTES)),
    "int8 of low rank": (7 * 3 + 3 * 8, 7 * (4 + 4 + INDEX_BYTES) + 96),
}


@every
def test_parameters_and_bytes_are_those_counted_by_hand(name):
    encoding = made(name)
    encoding.learn(LEARNED, gradient(LEARNED))
    assert (encoding.parameters(), encoding.bytes()) == BY_HAND[name]


@pytest.mark.parametrize("name", COLLISIONLESS)
def test_no_two_ids_share_a_row(name):
    encoding = made(name, optimizer="adagrad_elementwise")
    ids = np.arange(-3000, 3000)
    encoding.learn(ids, gradient(ids))
    some = encoding.served(K) if isinstance(encoding, Nested) else encoding
    assert len(np.unique(some.vectors(ids, "float32"), axis=0)) == ids.size


def test_the_bytes_of_an_index_entry_are_those_of_the_stores_index():
    index, found = HashIndex(1), []
    for size in np.geomspace(50_000, 400_000, 40).astype(int).tolist():
        index.lookup_or_insert(0, np.arange(len(index), size))
        found.append(index.nbytes / size)
    assert np.mean(found) == pytest.approx(INDEX_BYTES, rel=0.1)


def test_a_hash_fills_as_many_buckets_as_chance_does():
    buckets, n = 1000, 1500
    how = EncodingSettings(kind="hashed", buckets=buckets)
    encoding = make(TableSettings(name="t", dim=4, encoding=how), 1)
    filled = len(np.unique(encoding.vectors(np.arange(n)), axis=0))
    empty = (1 - 1 / buckets) ** n
    pair = (1 - 2 / buckets) ** n
    deviation = np.sqrt(buckets * (empty - empty**2) + buckets * (buckets - 1) * (pair - empty**2))
    assert abs(filled - buckets * (1 - empty)) < 4 * deviation


def test_a_hash_collides_as_often_as_the_birthday_bound_says():
    buckets, n, trials = 500, 20, 400
    how = EncodingSettings(kind="hashed", buckets=buckets)
    collided = sum(
        len(np.unique(make(TableSettings(name="t", dim=2, encoding=how), seed).vectors(np.arange(n)), axis=0)) < n
        for seed in range(trials)
    )
    chance = 1 - np.prod(1 - np.arange(n) / buckets)
    assert abs(collided - trials * chance) < 4 * np.sqrt(trials * chance * (1 - chance))


def test_with_two_hashes_far_fewer_ids_share_a_vector():
    ids = np.arange(1500)
    shared = []
    for hashes in (1, 2):
        how = EncodingSettings(kind="hashed", buckets=1000, hashes=hashes)
        vectors = make(TableSettings(name="t", dim=4, encoding=how), 1).vectors(ids)
        shared.append(ids.size - len(np.unique(vectors.round(7), axis=0)))
    assert shared[0] > 500
    assert shared[1] < 20  # some n² / 2 pairs, each with a chance of 2 / buckets²: 2.2


def test_ids_in_one_bucket_take_one_step_of_their_sum():
    one, two = (make(table("hashed", optimizer="adam"), 1) for _ in range(2))
    ids = np.arange(200)
    vectors = one.vectors(ids)
    first = next(i for i in ids if (vectors[:i] == vectors[i]).all(1).any())
    second = int(np.flatnonzero((vectors[:first] == vectors[first]).all(1))[0])
    g = gradient(np.arange(2))
    one.learn(np.array([first, second]), g)
    two.learn(np.array([first]), g.sum(0, keepdims=True))
    assert (one.vectors(ids) == two.vectors(ids)).all()


def test_new_rows_begin_as_those_of_the_store():
    shard = Shard([table("uniform")], SEED)
    see(shard, [[5]])
    assert (make(table("uniform"), SEED).vectors(np.array([5]))[0] == pooled(shard, [[5]])[0, 0, 1:]).all()


@pytest.mark.parametrize("optimizer", ["adagrad", "adagrad_elementwise", "adam"])
def test_a_row_moves_up_as_its_id_is_seen_and_takes_its_numbers_along(optimizer):
    encoding = unrotated(optimizer)
    ids, widths = np.array([9]), []
    before, whole = encoding.vectors(ids), make(table("uniform"), 1).vectors(ids)
    assert before[0].tolist() == [0, whole[0, 1], 0, 0, 0, 0, 0, 0]
    for _ in range(5):
        encoding.learn(ids, np.zeros((1, K), dtype=np.float32))
        widths.append(encoding.parameters())
    assert widths == [1, 3, 3, 8, 8]
    assert (encoding.vectors(ids) == whole).all()


def test_every_sighting_of_a_batch_counts():
    encoding, ids = unrotated("adagrad"), np.array([9, 8, 9, 7, 9, 8, 9])
    encoding.learn(ids, np.zeros((7, K), dtype=np.float32))
    assert encoding.blocks_of(np.array([7, 8, 9, 6])).tolist() == [0, 1, 2, 0]
    assert encoding.parameters() == 1 + 3 + 8


def unrotated(optimizer: str) -> Masked:
    how = EncodingSettings(kind="masked", plan=PLAN | {"matrix": None})
    encoding = make(table("uniform", optimizer=optimizer).model_copy(update={"encoding": how}), 1)
    assert isinstance(encoding, Masked)
    return encoding


def test_counts_known_beforehand_fix_the_blocks():
    counts = fixed_counts(np.array([30, 10, 20]), np.array([3, 1, 9]))
    encoding = make(table("masked"), 1, counts)
    ids = np.array([10, 20, 30, 40])
    assert encoding.blocks_of(ids).tolist() == [0, 2, 1, 0]
    for _ in range(9):
        encoding.learn(ids, np.zeros((4, K), dtype=np.float32))
    assert encoding.parameters() == 1 + 8 + 3 + 1


def test_a_plans_matrix_undoes_its_rotation():
    plain, rotated = unrotated("adagrad"), make(table("masked"), 1)
    ids = np.array([3, 4])
    np.testing.assert_allclose(rotated.vectors(ids), plain.vectors(ids) @ ROTATION.T, rtol=1e-5, atol=1e-6)
    g = gradient(ids)
    rotated.learn(ids, g)
    plain.learn(ids, (g @ ROTATION).astype(np.float32))
    np.testing.assert_allclose(rotated.vectors(ids), plain.vectors(ids) @ ROTATION.T, rtol=1e-5, atol=1e-6)


def test_rows_and_projections_learn_from_what_the_other_was():
    projections = Projections(table("uniform", initial_accumulator=1e6, learning_rate=1.0), 1, [2, K])
    units = np.eye(K, dtype=np.float32)[:2]
    p = projections.apply(units, np.zeros(2, dtype=np.int64))
    assert p.std() == pytest.approx(K**-0.5, rel=0.5)
    e, g = gradient(np.arange(5), 1), gradient(np.arange(5), 2)
    e[:3, 2:] = 0
    blocks = np.array([0, 0, 0, 1, 1])
    np.testing.assert_allclose(projections.apply(e, blocks)[:3], e[:3, :2] @ p, rtol=1e-5, atol=1e-6)
    assert (projections.apply(e, blocks)[3:] == e[3:]).all()
    of_rows = projections.learn(e, blocks, g)
    np.testing.assert_allclose(of_rows[:3, :2], g[:3] @ p.T, rtol=1e-5, atol=1e-6)
    assert (of_rows[3:] == g[3:]).all()
    moved = projections.apply(units, np.zeros(2, dtype=np.int64)) - p
    np.testing.assert_allclose(moved, -1e-3 * e[:3, :2].T @ g[:3], rtol=2e-3, atol=1e-6)


def test_int8_reads_each_row_to_half_a_step_of_its_largest_number():
    exact, ids = made("uniform"), np.arange(50)
    v = exact.vectors(ids).astype(np.float64)
    step = np.abs(v).max(1, keepdims=True) / 127
    np.testing.assert_allclose(made("int8").vectors(ids), np.rint(v / step) * step, rtol=1e-4, atol=1e-6)


def test_a_prefix_of_nested_dimensions_serves_alone():
    encoding = made("nested")
    ids = np.arange(6)
    lengths = set()
    for step in range(60):
        lengths.add(int((encoding.vectors(ids) != 0).any(0).sum()))
        encoding.learn(ids, gradient(ids, step))
    assert lengths == {2, 4, K}
    whole = encoding.served(K).vectors(ids)
    assert (encoding.served(2).vectors(ids)[:, :2] == whole[:, :2]).all()
    assert (encoding.served(2).vectors(ids)[:, 2:] == 0).all()
    assert (encoding.served(2).parameters(), encoding.served(2).bytes()) == (12, 6 * (8 + INDEX_BYTES))
    assert encoding.served(2).bytes("int8") == 6 * (4 + 4 + INDEX_BYTES)
    with pytest.raises(ValueError, match="a prefix of 3 was not trained"):
        encoding.served(3)


def test_unified_tables_share_one_memory_and_their_shares_add_up():
    how = EncodingSettings(kind="unified", buckets=101, hashes=2)
    tables = [TableSettings(name=name, dim=K, encoding=how, init_std=0.5) for name in ("user", "video", "tag")]
    user, video, tag = make_all(tables, 1).values()
    ids = np.arange(400)
    assert footprint([user, video, tag]) == (101 * 4, 101 * 16)
    assert (user.vectors(ids) != video.vectors(ids)).any(1).mean() > 0.95
    before = video.vectors(ids)
    user.learn(ids, gradient(ids))
    assert (video.vectors(ids) != before).any(1).mean() > 0.9
    assert tag.vectors(ids).std() > 0


def test_dimensions_by_the_frequency_rule():
    assert frequency_dims((10, 100, 1000), 16, 0.3) == (2, 4, 8, 16)  # 16 / 10^0.9 = 2.01, 4.02, 8.02
    assert frequency_dims((), 16, 0.3) == (16,)
    assert frequency_dims((100,), 4, 2.0) == (1, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "hashed"}, "encoding.buckets: hashed needs it"),
        ({"kind": "uniform", "buckets": 5}, "encoding.buckets: does not go with uniform"),
        ({"kind": "hashed", "buckets": 5, "hashes": 3}, "encoding.hashes: must be 1 or 2"),
        ({"kind": "frequency", "bounds": (4, 2)}, "encoding.bounds: must rise"),
        ({"kind": "nested", "prefixes": ()}, "encoding.prefixes: must name at least one"),
        ({"kind": "int8", "of": {"kind": "int8"}}, "encoding.of: is int8 itself"),
    ],
)
def test_settings_name_the_key_that_is_wrong(given, message):
    with pytest.raises(ValidationError, match=message):
        EncodingSettings.model_validate(given)


@every
def test_settings_read_back_from_their_own_json(name):
    settings = table(name)
    assert TableSettings.model_validate_json(settings.model_dump_json()) == settings


def without_counts(**how: object) -> Callable[[], Encoding]:
    return lambda: make(TableSettings(name="t", dim=K, encoding=EncodingSettings.model_validate(how)), 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (without_counts(kind="uniform", dim=9), "tables.t.encoding.dim: must lie between 1 and the table's dim, 8"),
        (without_counts(kind="low_rank", rank=9), "tables.t.encoding.rank"),
        (without_counts(kind="unified", buckets=9, hashes=3), "tables.t.encoding.hashes: must divide"),
        (without_counts(kind="frequency", bounds=(2,)), "tables.t.encoding.projection: needs counts"),
        (without_counts(kind="masked", plan={"bounds": [], "kept": [[8]]}), "the plan of table 't'"),
    ],
)
def test_an_encoding_that_does_not_fit_its_table_names_the_key(build, message):
    with pytest.raises((ValueError, BadBytes), match=message):
        build()
