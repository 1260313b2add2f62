import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from embedding_store.encodings.masked import Masked
from embedding_store.plan import TablePlan
from trainer.dimension_search import cut, search
from trainer.errors import SearchError
from trainer.search import alignment, selection
from trainer.search.fitting import fit, footprint, pruned
from trainer.search.matrices import Matrices, hashed
from trainer.search.network import Network, take
from trainer.search.planted import ITEM, definition, make_truth, planted
from trainer.search.recipe import Recipe
from trainer.search.recovery import recipe, recover
from trainer.search.steps import Steps, contributions
from trainer.search.training import train, validation_lines, weigh

SMALL = make_truth(3, dims=(1, 2, 4), sightings=(8, 16, 32), ids=20, users=30)


def small() -> Matrices:
    return planted(SMALL, 5, dim=6)


def steps_of(data: Matrices, how: Recipe, spread: float = 0.5) -> Steps:
    """Fresh rows, large enough that every gradient is."""
    network = Network(definition(6), data, cut(data, how).of_rows, how.seed)
    network.rows *= spread / 0.1
    return Steps(network, how.optimizer, how.rate, how.network_rate)


def numbers_of(network: Network) -> dict[str, np.ndarray]:
    return {"rows": network.rows.numpy().astype(np.float64), "alpha": network.alpha.numpy().astype(np.float64)}


def loss(rows: np.ndarray, alpha: np.ndarray, network: Network, data: Matrices, lines: np.ndarray) -> float:
    """The dot product's mean log loss, written out."""
    vectors = rows * alpha[network.blocks.numpy()]
    user, item = data.ids[lines].T
    logits = (vectors[user] * vectors[item]).sum(1) + float(network.module.bias[0].detach())
    y = data.labels[lines].astype(np.float64)
    return float((np.logaddexp(0, logits) - y * logits).mean())


def row_gradient(
    rows: np.ndarray, alpha: np.ndarray, network: Network, data: Matrices, lines: np.ndarray
) -> np.ndarray:
    """Of the loss above, by hand."""
    scale = alpha[network.blocks.numpy()]
    vectors = rows * scale
    user, item = data.ids[lines].T
    logits = (vectors[user] * vectors[item]).sum(1) + float(network.module.bias[0].detach())
    slope = (1 / (1 + np.exp(-logits)) - data.labels[lines]) / len(lines)
    found = np.zeros_like(rows)
    np.add.at(found, user, slope[:, None] * vectors[item])
    np.add.at(found, item, slope[:, None] * vectors[user])
    return found * scale


@pytest.mark.parametrize("order", [1, 2])
def test_gradient_of_alpha_is_that_of_finite_differences(order: int) -> None:
    data, how = small(), Recipe(rate=2.0, least=10)
    steps = steps_of(data, how)
    network = steps.network
    network.alpha = torch.rand(network.alpha.shape, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.4
    first, second = np.arange(64), validation_lines(data)[0][:64]
    got = steps.alpha_gradient(data, second, first if order == 2 else None, 0.0)
    rows, alpha = numbers_of(network).values()

    def ahead(a: np.ndarray) -> float:
        moved = rows - how.rate * row_gradient(rows, a, network, data, first) if order == 2 else rows
        return loss(moved, a, network, data, second)

    expected = np.zeros_like(alpha)
    for place in itertools.product(*map(range, alpha.shape)):
        up, down = alpha.copy(), alpha.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        expected[place] = (ahead(up) - ahead(down)) / 2e-5
    np.testing.assert_allclose(got, expected, atol=2e-6, rtol=2e-3)
    if order == 2:
        plain = steps.alpha_gradient(data, second, None, 0.0)
        assert np.abs(plain - got).max() > 1e-4  # the look-ahead is seen at all


def test_gradient_of_alpha_from_looked_up_rows_is_autograds() -> None:
    data, how = small(), Recipe(least=10)
    steps = steps_of(data, how)
    network = steps.network
    examples = take(data, np.arange(100))
    of_slots, slopes, selected = contributions(network, examples)
    p = torch.sigmoid(torch.from_numpy(network.scores(data, np.arange(100))))
    errors = ((p - examples.labels) / 100)[:, None, None]
    got = selection.alpha_gradient(
        of_slots.reshape(-1).numpy(),
        (slopes * errors).reshape(-1, 6).numpy(),
        selected.reshape(-1, 6).numpy(),  # alpha is 1
        len(network.alpha),
    )
    np.testing.assert_allclose(got, steps.alpha_gradient(data, np.arange(100), None, 0.0), atol=1e-7, rtol=1e-4)


def test_step_moves_rare_and_frequent_blocks_alike() -> None:
    alpha = np.full((3, 2), 0.5, dtype=np.float32)
    gradient = np.array([[1e-9, -1e-9], [100.0, -100.0], [0.0, 0.0]])
    moved = selection.step(alpha, gradient, rate=0.1, penalty=0.0)
    np.testing.assert_allclose(moved, [[0.4, 0.6], [0.4, 0.6], [0.5, 0.5]], atol=1e-6)


def test_step_stays_between_floor_and_one() -> None:
    alpha = np.array([[0.02, 0.99]], dtype=np.float32)
    moved = selection.step(alpha, np.array([[1.0, -1.0]]), rate=0.5, penalty=0.1, floor=0.1)
    np.testing.assert_allclose(moved, [[0.1, 1.0]])


def test_alignment_turns_nested_use_onto_the_first_axes() -> None:
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    rows = [rng.standard_normal((400, 5)) * (np.arange(5) < d) @ turn.T for d in (1, 2, 3)]
    values = np.concatenate(rows).astype(np.float32)
    use = alignment.second_moments(np.repeat(np.arange(3), 400), values, 3)
    found = alignment.rotation(use, np.eye(5))
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-12)
    for d, own in zip((1, 2, 3), rows, strict=True):
        turned = np.square(own @ found).sum(0)
        assert turned[:d].sum() > 0.98 * turned.sum()


def test_turning_the_axes_changes_no_score() -> None:
    data, how = small(), Recipe(least=10)
    steps = steps_of(data, how)
    before = steps.network.scores(data, np.arange(200))
    turn, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))
    steps.rotate({ITEM: turn})
    steps.rotate({ITEM: turn})
    np.testing.assert_allclose(steps.network.scores(data, np.arange(200)), before, atol=1e-5)


def test_row_optimizer_goes_the_same_way_on_turned_axes() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))
    scores = []
    for turned in (False, True):
        data, how = small(), Recipe(least=10, best=False)
        steps = steps_of(data, how)
        if turned:
            steps.rotate({ITEM: turn})
        train(steps, data, how, 0.5, np.random.default_rng(1))
        scores.append(steps.network.scores(data, np.arange(200)))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_what_is_kept_fits_the_budget_and_is_worth_most() -> None:
    rng = np.random.default_rng(4)
    worth, rows = rng.random((5, 8)), np.array([100, 50, 20, 10, 5])
    for budget in (185, 400, 900, 1480):
        kept = selection.keep_within(worth, rows, budget)
        assert kept.any(axis=1).all()
        assert rows @ kept.sum(axis=1) <= budget
    density = worth / rows[:, None]
    dropped = density[~kept].max(initial=0.0)
    assert kept.all() or dropped <= density[kept].max()


def test_plan_joins_neighbours_that_keep_the_same() -> None:
    kept = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1]], dtype=np.bool_)
    assert selection.to_plan((4, 16), kept) == TablePlan((16,), ((0,), (0, 2)))


def test_plan_in_the_store_gives_the_vectors_of_the_search() -> None:
    data, how = small(), Recipe.budget(3, least=10, batch_size=64, alpha_batch=64, rate=0.1)
    found = search(definition(6), data, how, [ITEM])
    kept = found.kept(0.6)
    plan = found.plans(kept)[ITEM]
    model = pruned(found, kept).network
    table = data.tables[0]
    settings = next(t for t in definition(6).tables if t.name == ITEM)
    count_of = dict(enumerate(data.counts.tolist()))
    held = Masked(settings, 1, plan, lambda ids: np.array([count_of[i] for i in ids.tolist()], dtype=np.int64))
    ids = np.arange(table.first + 1, table.last)
    blocks = found.blocks.of_rows[ids]
    for block, row in zip(blocks.tolist(), held.blocks_of(ids).tolist(), strict=True):
        assert set(plan.kept[row]) == set(np.flatnonzero(kept[block]).tolist())
    rows = torch.from_numpy(ids)
    vectors = model.vectors(rows, model.rows[rows], model.alpha).numpy()
    packed = model.rows[rows].numpy() * kept[blocks]
    np.testing.assert_allclose(vectors, packed @ np.array(plan.matrix).T, atol=1e-5)


def test_search_stays_within_its_passes_and_repeats_itself() -> None:
    data, how = small(), Recipe.budget(3, least=10, batch_size=64, alpha_batch=32)
    one, two = (search(definition(6), data, how) for _ in range(2))
    tuned = fit(definition(6), data, how, one.kept(0.5), one)
    assert one.passes + tuned.passes <= 3.0
    np.testing.assert_array_equal(one.alpha, two.alpha)
    np.testing.assert_array_equal(one.network.rows.numpy(), two.network.rows.numpy())


def test_look_ahead_counts_for_more_passes() -> None:
    assert Recipe(order=2).search_cost > Recipe().search_cost
    for order in (1, 2):
        how = Recipe.budget(3, order=order)
        assert how.warm_passes + how.search_passes * how.search_cost + how.tune_passes <= 3.0


def test_tables_that_are_not_searched_stay_whole() -> None:
    data = small()
    found = search(definition(6), data, Recipe.budget(2, least=10, batch_size=64), [ITEM])
    users = found.blocks.tables["user"]
    assert (found.alpha[users] == 1).all()
    assert list(found.matrices) == [ITEM]
    budget = (found.blocks.rows[users].sum() * 6 + found.blocks.rows[found.blocks.tables[ITEM]].sum()) / (
        found.blocks.rows.sum() * 6
    )
    assert found.kept(float(budget))[users].all()


def test_alpha_beside_fixed_dimensions_is_one_number_a_block_or_all() -> None:
    data, how = small(), Recipe(least=10, batch_size=64, alpha_batch=64, best=False, alpha_rate=0.05)
    alphas = {}
    for shared in (True, False):
        steps = steps_of(data, how)
        mask = np.ones((len(steps.network.alpha), 6), dtype=np.bool_)
        alphas[shared], _ = weigh(steps, data, replace(how, penalty=0.3), mask, np.random.default_rng(1), shared)
    assert (alphas[True] == alphas[True][:, :1]).all()
    assert (alphas[False] != alphas[False][:, :1]).any()


def test_dropped_numbers_stay_dropped_in_training() -> None:
    data, how = small(), Recipe(least=10, batch_size=64)
    blocks = cut(data, how)
    kept = np.zeros((len(blocks.rows), 6), dtype=np.bool_)
    kept[:, :2] = True
    fitted = fit(definition(6), data, how, kept)
    rows = fitted.network.rows * fitted.network.alpha[fitted.network.blocks]
    assert (rows[:, 2:] == 0).all()
    assert fitted.parameters == 2 * int(blocks.rows.sum())
    assert footprint(blocks, kept, 0)[1] == fitted.bytes == 4 * fitted.parameters + 29 * int(blocks.rows.sum())


def test_hashed_ids_share_rows_and_keep_their_sightings() -> None:
    data = small()
    folded = hashed(data, {ITEM: 7}, seed=1)
    items = folded.tables[0]
    assert (items.first, items.last) == (0, 8)
    assert folded.counts[1:8].sum() == data.counts[data.tables[0].first : data.tables[0].last].sum()
    same = data.ids[:, 1] == data.ids[0, 1]
    assert (folded.ids[same, 1] == folded.ids[0, 1]).all()


def test_planted_dimensions_are_found_on_aligned_axes_alone() -> None:
    truth = make_truth(1, dims=(1, 2, 4), sightings=(40, 80, 160), users=200)
    assert recover(truth, recipe(1, align=True)).within
    assert not recover(truth, recipe(1, align=False)).within


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (lambda: Recipe(batch_size=0), "batch_size"),
        (lambda: Recipe(warm_passes=-1), "warm_passes"),
        (lambda: Recipe.budget(0), "budget"),
        (lambda: search(definition(6), small(), Recipe(), ["video"]), "video"),
        (lambda: search(definition(6), small(), Recipe.budget(1, least=10)).kept(0.05), "parameters"),
        (lambda: hashed(small(), {"video": 3}, 1), "buckets.video"),
    ],
)
def test_what_cannot_be_searched_is_named(what: object, text: str) -> None:
    with pytest.raises(SearchError, match=text):
        what()  # type: ignore[operator]
