"""Dimension plans: rows of many widths, read as the present plan has them."""

import numpy as np
import pytest

from embedding_store.errors import BadBytes
from embedding_store.plan import TablePlan, parse_plan
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, pooled, see

TABLE = TableSettings(name="t", dim=4, learning_rate=0.5, initial_accumulator=1.0)
PLAN = TablePlan((3, 5), ((0,), (0, 2), (0, 1, 2, 3)))


def planned(optimizer: str = "adagrad") -> Shard:
    shard = Shard([TABLE.model_copy(update={"optimizer": optimizer})], SEED)
    shard.set_plan("t", PLAN)
    return shard


def row(shard: Shard, key: int) -> np.ndarray:
    return pooled(shard, [[key]])[0, 0]


def initial(key: int) -> np.ndarray:
    shard = Shard([TABLE], SEED)
    see(shard, [[key]])
    return row(shard, key)


def test_a_row_grows_as_its_id_is_seen_more_often():
    shard = planned()
    widths = []
    for _ in range(6):
        see(shard, [[7]])
        widths.append(shard.widths(0))
    assert widths == [{"1": 1}, {"1": 1}, {"2": 1}, {"2": 1}, {"4": 1}, {"4": 1}]


def test_numbers_that_are_not_kept_are_zero_and_learn_nothing():
    shard = planned()
    see(shard, [[7]], gradients=[[[0, 1, 1, 1, 1]]])
    values = row(shard, 7)
    assert values[1] != initial(7)[1]
    assert values[2:].tolist() == [0, 0, 0]


def test_a_row_wise_accumulator_goes_along():
    shard = planned()
    see(shard, [[7], [7]], gradients=[[[0.3, 0.5, 0, 0, 0]]])
    first = row(shard, 7)
    see(shard, [[7]])
    assert (row(shard, 7)[:2] == first[:2]).all()
    see(shard, [[7]], gradients=[[[0, 0.2, 0, 0.2, 0]]])
    # both sightings came in one batch, so the accumulator is 1 + 1.0 ** 2 and then gets the mean of two squares
    step = 0.5 * 0.2 / np.sqrt(2.0 + 0.2**2)
    np.testing.assert_allclose(row(shard, 7)[[1, 3]], [first[1] - step, initial(7)[3] - step], rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adagrad_elementwise", "adam", "ftrl"])
def test_kept_numbers_go_along_and_new_ones_begin_as_at_birth(optimizer: str):
    shard, whole = planned(optimizer), Shard([TABLE.model_copy(update={"optimizer": optimizer})], SEED)
    whole.set_plan("t", TablePlan((), ((0, 2),)))
    for one in (shard, whole):
        see(one, [[7], [7]], gradients=[[[0.3, 0.5, 0, 0, 0]]])
        see(one, [[7]], gradients=[[[0.1, 0.2, 0, 0, 0]]])
    np.testing.assert_allclose(row(shard, 7)[:2], row(whole, 7)[:2], rtol=1e-6)
    assert row(shard, 7)[3] == pytest.approx(initial(7)[3], abs=1e-6)


def test_a_new_plan_holds_at_once_whether_a_row_was_re_encoded_or_not():
    lazy, eager = Shard([TABLE], SEED), Shard([TABLE], SEED)
    for shard in (lazy, eager):
        see(shard, [[1], [2], [2], [2], [2]], gradients=0.5)
        shard.set_plan("t", PLAN)
    eager.settle()
    assert lazy.widths(0) == {"4": 2}
    assert eager.widths(0) == {"1": 1, "2": 1}
    assert (pooled(lazy, [[1], [2], [None]]) == pooled(eager, [[1], [2], [None]])).all()
    for shard in (lazy, eager):
        see(shard, [[1], [2]], gradients=-0.2)
        shard.settle()
    assert (pooled(lazy, [[1], [2], [None]]) == pooled(eager, [[1], [2], [None]])).all()


def test_back_to_full_width_numbers_begin_as_at_birth():
    shard = planned()
    see(shard, [[7]], gradients=0.5)
    shard.set_plan("t", None)
    assert (row(shard, 7)[2:] == initial(7)[2:]).all()


def test_a_reader_follows_plans_and_widths():
    shard = Shard([TABLE], SEED)
    see(shard, [[1], [2], [2], [2], [2]], gradients=0.5)
    reader = Shard([TABLE], SEED, learning=False, layouts=shard.parts()["layouts"])
    for _ in range(2):
        blocks, _ = shard.take_changes()
        reader.load_layouts(shard.parts()["layouts"])
        for block in blocks:
            reader.apply(block)
        assert (pooled(reader, [[1], [2], [None]]) == pooled(shard, [[1], [2], [None]])).all()
        shard.set_plan("t", PLAN)
        see(shard, [[2]], gradients=0.1)


def test_settling_a_reader_leaves_it_as_it_is():
    shard = planned()
    see(shard, [[1], [2]], gradients=0.5)
    reader = Shard([TABLE], SEED, learning=False, layouts=shard.parts()["layouts"])
    for block in shard.take_changes()[0]:
        reader.apply(block)
    reader.settle()
    assert (pooled(reader, [[1], [2], [None]]) == pooled(shard, [[1], [2], [None]])).all()


def test_layouts_of_an_older_commit_leave_later_ones_known():
    shard = Shard([TABLE], SEED)
    older = shard.parts()["layouts"]
    shard.set_plan("t", PLAN)
    later = [*shard.layouts.known]
    shard.load_layouts(older)
    assert shard.layouts.known == later
    assert shard.layouts.plans == {}


def test_a_plan_of_a_table_that_was_made_anew_with_another_width_is_left_out():
    shard = Shard([TABLE], SEED)
    shard.set_plan("t", PLAN)
    narrower = TABLE.model_copy(update={"dim": 1})
    assert Shard([narrower], SEED, layouts=shard.parts()["layouts"]).layouts.plans == {}


def test_strips_given_back_are_used_again():
    shard = planned()
    see(shard, [[key] for key in range(50)])
    for _ in range(3):
        see(shard, [[key] for key in range(50)])
    used = shard.rows.memory_bytes
    see(shard, [[key] for key in range(100, 150)])
    assert shard.rows.memory_bytes == used


def test_the_tables_matrix_rebuilds_the_vector_and_takes_the_gradient_back():
    matrix = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    turned, plain = Shard([TABLE], SEED), Shard([TABLE], SEED)
    full = (tuple(range(4)),)
    turned.set_plan("t", TablePlan((), full, tuple(map(tuple, matrix.tolist()))))
    see(plain, [[1]])
    see(turned, [[1]])
    before = row(plain, 1)
    np.testing.assert_allclose(row(turned, 1)[1:], matrix @ before[1:], rtol=1e-5)
    gradient = np.array([0.0, 0.3, -0.2, 0.5, 0.1], dtype=np.float32)
    see(turned, [[1]], gradients=gradient)
    back = gradient.copy()
    back[1:] = matrix.T @ gradient[1:]
    see(plain, [[1]], gradients=back)
    np.testing.assert_allclose(row(turned, 1)[1:], matrix @ row(plain, 1)[1:], rtol=1e-4, atol=1e-6)


def orthogonal(seed: int, dim: int = 4) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0].tolist()))


@pytest.mark.parametrize("optimizer", ["adagrad", "adagrad_elementwise", "adam", "ftrl"])
def test_a_plan_with_another_matrix_turns_the_rows_and_leaves_their_vectors(optimizer):
    shard = Shard([TABLE.model_copy(update={"optimizer": optimizer})], SEED)
    rng = np.random.default_rng(2)
    full = (tuple(range(4)),)
    for _ in range(5):
        see(shard, [[key] for key in range(20)], gradients=rng.normal(size=(20, 1, 5)))
    before = np.stack([row(shard, key) for key in range(20)])
    for matrix in (orthogonal(3), orthogonal(4), None):
        shard.set_plan("t", TablePlan((), full, matrix))
        read = np.stack([row(shard, key) for key in range(20)])
        np.testing.assert_allclose(read, before, rtol=1e-4, atol=1e-6)
        shard.settle()
        np.testing.assert_array_equal(np.stack([row(shard, key) for key in range(20)]), read)


def test_turned_rows_learn_on_as_their_optimizer_had_them():
    """Of Adam, the mean turns with the numbers and the squares by the matrix' squares; a quarter turn shows both."""
    quarter = ((0.0, -1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    adam = TABLE.model_copy(update={"optimizer": "adam"})
    turned, plain = Shard([adam], SEED), Shard([adam], SEED)
    rng = np.random.default_rng(5)
    for step in range(8):
        if step == 4:
            turned.set_plan("t", TablePlan((), (tuple(range(4)),), quarter))
        gradient = rng.normal(size=5).astype(np.float32)
        for shard in (turned, plain):
            see(shard, [[1]], gradients=gradient)
    np.testing.assert_allclose(row(turned, 1), row(plain, 1), rtol=1e-5, atol=1e-7)


def test_a_turn_drops_what_the_new_axes_do_not_keep():
    shard = Shard([TABLE], SEED)
    see(shard, [[1]], gradients=np.array([0.0, 0.3, -0.2, 0.5, 0.1], dtype=np.float32))
    before = row(shard, 1)[1:]
    matrix = np.array(orthogonal(6))
    shard.set_plan("t", TablePlan((), ((0, 1),), orthogonal(6)))
    wanted = matrix[:, :2] @ (matrix.T @ before)[:2]
    np.testing.assert_allclose(row(shard, 1)[1:], wanted, rtol=1e-4, atol=1e-6)
    restored = Shard([TABLE], SEED, layouts=shard.layouts.to_json())
    assert restored.layouts.known == shard.layouts.known
    assert restored.layouts.frames == shard.layouts.frames


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"kept": [[0]]}, "bounds"),
        ({"bounds": [2], "kept": [[0]]}, "must list 2 blocks"),
        ({"bounds": [5, 2], "kept": [[0], [0], [0]]}, "`bounds` must rise"),
        ({"bounds": [], "kept": [[4]]}, "kept[0]"),
        ({"bounds": [], "kept": [[]]}, "kept[0]"),
        ({"bounds": [], "kept": [[0]], "matrix": [[1]]}, "4 x 4"),
        ({"bounds": [], "kept": [[0]], "matrix": [[1, 0, 0, 0]] * 4}, "an inverse"),
        ([], "cannot be read"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(value: object, word: str):
    with pytest.raises(BadBytes, match="table 't'") as caught:
        parse_plan(value, "t", 4)  # type: ignore[arg-type]
    assert word in str(caught.value)
