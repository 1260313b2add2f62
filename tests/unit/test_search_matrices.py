import numpy as np
import pytest

from embedding_store.settings import TableSettings
from trainer.definition import Definition, define
from trainer.errors import SearchError
from trainer.example import examples_to_columns
from trainer.features import Featurizer
from trainer.search.blocks import log_bounds, share_bounds
from trainer.search.matrices import Matrices, from_stream
from trainer.settings import FeatureSettings, ModelSettings, TaskSettings
from trainer.statistic_settings import StatisticSettings


def definition_of(*statistics: StatisticSettings, model: str = "deepfm") -> Definition:
    features = (
        FeatureSettings(name="user", source="user.id", kind="id"),
        FeatureSettings(name="tags", source="item.tags", kind="ids"),
        FeatureSettings(name="price", source="item.price", kind="number"),
    )
    tables = (TableSettings(name="user", dim=4, linear_learning_rate=0.0), TableSettings(name="tags", dim=4))
    settings = ModelSettings.model_validate({"name": model})
    return define(tables, features, (TaskSettings(name="click"),), settings, 1, statistics=statistics)


def message(number: int, user: int, tags: list[int], click: int) -> dict[str, object]:
    item = {"id": number, "tags": tags, "price": number, "labels": {"click": click}}
    return {"request_id": str(number), "ts": 1000 * number, "user": {"id": user}, "items": [item]}


def read(definition: Definition, messages: list[dict[str, object]]) -> Matrices:
    columns = examples_to_columns(messages, Featurizer(definition).sources, ["click"])
    return from_stream(definition, [columns], batch_size=1, shares=(0.5, 0.25, 0.25))


MESSAGES = [
    message(0, 7, [1, 2], 1),
    message(1, 8, [2], 0),
    message(2, 7, [1], 1),
    message(3, 9, [3], 0),
    message(4, 7, [1, 2], 1),
    message(5, 10, [9], 0),
    message(6, 9, [2], 0),
    message(7, 7, [3, 1], 1),
]


def test_ids_become_rows_and_unseen_ones_the_cold_row() -> None:
    data = read(definition_of(), MESSAGES)
    tags, users = data.tables
    assert (tags.name, users.name) == ("tags", "user")
    assert data.parts == (4, 6)
    assert data.slots.tolist() == [0, 1, 1]
    assert users.last - users.first == 1 + 3  # 7, 8, 9 and the cold row
    by_line = (data.ids[:, 0] - users.first).tolist()
    assert by_line == [1, 2, 1, 3, 1, 0, 3, 1]  # 10 was not seen in the training part
    assert data.counts[users.first : users.last].tolist() == [0, 2, 1, 1]
    assert (data.ids[5, 1] - tags.first).tolist() == 0


def test_values_of_a_list_share_its_field_and_padding_has_none() -> None:
    data = read(definition_of(), MESSAGES)
    assert data.shares[0].tolist() == [1.0, 0.5, 0.5]
    assert data.shares[1].tolist() == [1.0, 1.0, 0.0]
    tags = data.tables[0]
    assert (data.ids[0, 1:] - tags.first).tolist() == [1, 2]


def test_numbers_are_standardised_by_the_training_part() -> None:
    data = read(definition_of(), MESSAGES)
    expected = (np.arange(8) - 1.5) / np.arange(4).std()
    np.testing.assert_allclose(data.numbers[:, 0], expected, rtol=1e-6)


def test_a_table_without_a_rate_has_no_linear_part() -> None:
    data = read(definition_of(), MESSAGES)
    assert [table.linear for table in data.tables] == [True, False]


def test_statistics_are_as_they_were_before_each_example() -> None:
    rate = StatisticSettings.model_validate(
        {"name": "rate", "by": ["user"], "kind": "rate", "of": "labels.click", "prior": [0.5, 2]}
    )
    data = read(definition_of(rate), MESSAGES)
    found = data.numbers[:, 1]
    clicks = [0.5, 0.5, 2 / 3, 0.5]  # of the training part: (clicks + 1) / (seen + 2), of what came before
    np.testing.assert_allclose(found[:4], (clicks - np.mean(clicks)) / np.std(clicks), rtol=1e-5)


def test_examples_without_a_label_are_left_out() -> None:
    unlabelled = message(9, 7, [1], 1)
    unlabelled["items"][0]["labels"] = {}  # type: ignore[index]
    assert len(read(definition_of(), [*MESSAGES[:4], unlabelled, *MESSAGES[4:]]).labels) == len(MESSAGES)


def test_what_a_search_cannot_do_is_named() -> None:
    with pytest.raises(SearchError, match=r"model\.name"):
        read(definition_of(model="residual"), MESSAGES)
    with pytest.raises(SearchError, match="too few"):
        read(definition_of(), MESSAGES[:1])


def test_blocks_hold_enough_ids_and_cover_all() -> None:
    counts = np.random.default_rng(1).zipf(1.5, 5000).clip(max=10_000).astype(np.int64)
    bounds = log_bounds(counts, least=100)
    assert len(bounds) > 3
    sizes = np.bincount(np.searchsorted(bounds, counts, side="right"))
    assert sizes.min() >= 100
    assert sizes.sum() == 5000


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="shares"):
        share_bounds(np.arange(10), (0.5, 0.4))


def test_ftrl_takes_no_linear_rate_of_zero() -> None:
    with pytest.raises(ValueError, match="linear_learning_rate"):
        TableSettings(name="user", optimizer="ftrl", linear_learning_rate=0.0)
