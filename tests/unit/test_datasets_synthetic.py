"""The synthetic stream: deterministic, of any size, with the truth known."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from services.datasets.block import Block, rechunk
from services.datasets.click_model import make_click_model
from services.datasets.errors import DatasetError
from services.datasets.synthetic import open_synthetic
from trainer.example import Coded, check_example, examples_to_columns

SMALL = {"users": 500, "items": 400}
SOURCES = ["user.id", "user.country", "context.device", "item.id", "item.category", "item.price"]


def whole(examples: int, **options: int) -> Block:
    (block,) = rechunk(open_synthetic(examples, **{**SMALL, **options}).blocks(), 1_000_000)
    return block


def assert_begins_with(longer: Block, shorter: Block) -> None:
    lists, examples = len(shorter) - 1, int(shorter.sizes[:-1].sum())
    np.testing.assert_array_equal(longer.ts[:lists], shorter.ts[:lists])
    np.testing.assert_array_equal(longer.labels["click"][:examples], shorter.labels["click"][:examples])
    for source in ("item.id", "item.price"):
        np.testing.assert_array_equal(longer.values[source][:examples], shorter.values[source][:examples])
    assert longer.truth is not None
    assert shorter.truth is not None
    np.testing.assert_array_equal(longer.truth[:examples], shorter.truth[:examples])


def test_equal_arguments_give_equal_streams_and_another_seed_another() -> None:
    assert list(open_synthetic(300, **SMALL).messages()) == list(open_synthetic(300, **SMALL).messages())
    assert list(open_synthetic(300, **SMALL).messages()) != list(open_synthetic(300, seed=2, **SMALL).messages())


def test_a_stream_can_be_read_twice() -> None:
    dataset = open_synthetic(300, **SMALL)
    assert list(dataset.messages()) == list(dataset.messages())


@pytest.mark.parametrize("chunk_lists", [1, 7, 2047, 2048, 5000])
def test_the_size_of_chunks_changes_nothing(chunk_lists: int) -> None:
    dataset = open_synthetic(45_000, **SMALL)
    sizes, ids, truth = [], [], []
    for columns, true in itertools.islice(dataset.columns_with_truth(SOURCES, ["click"], chunk_lists), 700):
        sizes.append(columns.sizes)
        ids.append(columns.values["item.id"])
        truth.append(true)
        assert len(columns.sizes) <= chunk_lists
    block = whole(45_000)
    count = sum(len(part) for part in ids)
    np.testing.assert_array_equal(np.concatenate(ids), block.values["item.id"][:count])
    np.testing.assert_array_equal(np.concatenate(truth), block.truth[:count])
    np.testing.assert_array_equal(np.concatenate(sizes), block.sizes[: sum(map(len, sizes))])


def test_a_shorter_stream_is_the_beginning_of_a_longer_one() -> None:
    assert_begins_with(whole(50_000), whole(25_003))


@pytest.mark.parametrize("examples", [0, 1, 9, 10, 25, 20_480, 20_481])
def test_it_has_exactly_as_many_examples_as_asked(examples: int) -> None:
    dataset = open_synthetic(examples, **SMALL)
    sizes = [size for columns in dataset.columns(SOURCES, ["click"]) for size in columns.sizes.tolist()]
    assert sum(sizes) == dataset.examples == examples
    assert all(size == 10 for size in sizes[:-1])


def test_the_default_is_two_million_examples_of_many_users_and_items() -> None:
    assert open_synthetic().examples == 2_000_000


def test_columns_equal_those_of_the_messages() -> None:
    dataset = open_synthetic(250, **SMALL)
    messages = list(dataset.messages())
    for message in messages:
        check_example(message, ["click"])
    (columns,) = dataset.columns(SOURCES, ["click"])
    expected = examples_to_columns(messages, SOURCES, ["click"])
    np.testing.assert_array_equal(columns.labels, expected.labels)
    np.testing.assert_array_equal(columns.ts, expected.ts)
    for source in SOURCES:
        column = columns.values[source]
        got = column.tolist() if isinstance(column, np.ndarray | Coded) else list(column)
        assert got == list(expected.values[source])


def test_items_of_a_list_differ_and_time_never_goes_back() -> None:
    block = whole(45_000, list_size=20)
    lists = np.asarray(block.values["item.id"]).reshape(-1, 20)
    assert all(len(set(row)) == 20 for row in lists.tolist())
    assert (np.diff(block.ts) >= 0).all()


def test_labels_follow_the_true_probability_at_the_base_rate() -> None:
    block = whole(200_000, users=100_000, items=20_000)
    label, truth = block.labels["click"].astype(float), block.truth
    assert truth is not None
    assert truth.mean() == pytest.approx(0.1, abs=0.01)
    for low, high in ((0, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 1)):
        inside = (truth >= low) & (truth < high)
        error = math.sqrt((truth[inside] * (1 - truth[inside])).sum()) / inside.sum()
        assert label[inside].mean() == pytest.approx(truth[inside].mean(), abs=5 * error)
    assert 0.75 < roc_auc_score(label, truth) < 0.8


def test_ids_come_by_zipfs_law() -> None:
    block = whole(200_000, users=100_000, items=20_000)
    counts = np.sort(np.bincount(np.asarray(block.values["item.id"])))[::-1]
    assert 8 < counts[9] / counts[99] < 18  # ten ranks further, 10 ** 1.1 times as rare
    assert 8 < counts[99] / counts[999] < 18


def test_new_items_appear_over_time() -> None:
    block = whole(400_000)
    items = np.asarray(block.values["item.id"])
    early, late = set(items[:2000].tolist()), set(items[-20_000:].tolist())
    assert max(early) < 205
    assert max(late) > 205


def test_tastes_drift() -> None:
    model = make_click_model(1, 50, 50)
    user, device, item = np.arange(50), np.zeros(50, dtype=np.int64), np.arange(50)[:, None]
    now = model.log_odds(user, device, item, np.zeros(50, dtype=np.int64))
    soon = model.log_odds(user, device, item, np.full(50, 60_000))
    later = model.log_odds(user, device, item, np.full(50, 7 * 86_400_000))
    assert np.abs(soon - now).max() < 0.01
    assert np.abs(later - now).mean() > 0.1


@pytest.mark.parametrize("options", [{"users": 0}, {"items": 10}, {"list_size": 0}])
def test_too_small_a_world_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="synthetic: needs"):
        open_synthetic(10, **{**SMALL, **options})
