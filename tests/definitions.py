"""A small definition with every kind of feature, and random messages for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedding_store.encodings.settings import EncodingSettings
from embedding_store.settings import TableSettings
from trainer.batch import Batch
from trainer.definition import Definition, define
from trainer.example import Columns, examples_to_columns
from trainer.features import Featurizer
from trainer.settings import FeatureSettings, ModelSettings, TaskSettings
from trainer.statistic_settings import StatisticSettings

TASKS = ("click", "like")


def feature(name: str, kind: str = "id", source: str | None = None, **more: Any) -> FeatureSettings:
    """One feature."""
    return FeatureSettings.model_validate({"name": name, "kind": kind, "source": source, **more})


FEATURES = (
    feature("user", source="user.id"),
    feature("video", source="item.id"),
    feature("tags", "ids", "item.tags"),
    feature("interests", "ids", "user.interests", table="tags", pooling="sum"),
    feature("hour", source="time.hour"),
    feature("length", "number", "item.length_s", buckets=(10.0, 60.0, 300.0)),
    feature("user_x_length", "cross", inputs=("user", "length")),
    feature("age", "number", "user.profile.age"),
    feature("plays", "number", "item.plays", transform="log"),
)
TABLES = (
    TableSettings(name="user", dim=4, expire_after="1d"),
    TableSettings(name="video", dim=2, learning_rate=0.05),
    TableSettings(name="tags", dim=3),
    TableSettings(name="hour", dim=1),
)


def small_definition(
    features: Sequence[FeatureSettings] = FEATURES,
    tables: Sequence[TableSettings] | None = None,
    tasks: Sequence[str] = TASKS,
    hidden: tuple[int, ...] = (7, 5),
    seed: int = 3,
) -> Definition:
    """Two tasks over every kind of feature, unless told otherwise."""
    if tables is None:
        used = {f.table_name for f in features if f.has_ids}
        tables = [table for table in TABLES if table.name in used]
    return define(
        tuple(tables),
        tuple(features),
        tuple(TaskSettings(name=name) for name in tasks),
        ModelSettings(hidden=hidden, learning_rate=0.01),
        seed,
    )


def statistic(name: str, by: str, kind: str, **more: Any) -> StatisticSettings:
    """One statistic by the features that `by` names, parted by blanks."""
    return StatisticSettings.model_validate({"name": name, "by": tuple(by.split()), "kind": kind, **more})


STATISTICS = (
    statistic("click_rate", "user", "rate", of="labels.click", prior=(0.4, 4), half_life="1h"),
    statistic("play", "video", "mean", of="outcomes.play_ms", unit=1000, log=True, window="2h", prior=(1, 2)),
    statistic("likes", "user", "count", where="labels.like = 1", buckets=(1, 3)),
    statistic("last_two", "user video", "last", of="labels.click", length=2, buckets=(0.5,)),
    statistic("gap", "user", "since", buckets=(60, 600), input=False),
    statistic("log_gap", "user", "since", transform="log"),
    statistic(
        "long_play", "user length", "rate", of="labels.click", where="outcomes.play_ms > 800", buckets=(0.3, 0.6)
    ),
)
PAST = (
    feature("past", "sequence", table="video", of="click", length=4),
    feature("likes_x_gap_x_length", "cross", inputs=("likes", "gap", "length")),
)


def full_definition(
    model: str = "din", wide: str | None = "gaussian", statistics: Sequence[StatisticSettings] = STATISTICS, **more: Any
) -> Definition:
    """Everything at once: every kind of feature, Gaussian weights, statistics, a sequence, two tasks."""
    return define(
        (*TABLES, TableSettings(name="by.user", expire_after="1d"), TableSettings(name="last_two", dim=1)),
        (*FEATURES, *PAST),
        tuple(TaskSettings(name=name) for name in TASKS),
        ModelSettings.model_validate({"name": model, "wide": wide, "hidden": (7, 5), "learning_rate": 0.01, **more}),
        3,
        statistics=tuple(statistics),
    )


def hashed(definition: Definition, **buckets: int) -> Definition:
    """The same with some tables hashed."""
    tables = [
        table.model_copy(update={"encoding": EncodingSettings(kind="hashed", buckets=buckets[table.name])})
        if table.name in buckets
        else table
        for table in definition.tables
    ]
    return definition.model_copy(update={"tables": tuple(tables)})


def lived_message(rng: np.random.Generator, first_ts: int = 1_700_000_000_000) -> dict[str, Any]:
    """A message with outcomes, of few users and items, so that there is a past."""
    found = message(rng, first_ts=first_ts)
    if "id" in found["user"]:
        found["user"]["id"] = found["user"]["id"] % 4
    for item in found["items"]:
        item["id"] = f"v{rng.integers(0, 6)}"
        if rng.random() < 0.8:
            item["outcomes"] = {"play_ms": float(rng.integers(0, 3000))}
    return found


def message(rng: np.random.Generator, items: int | None = None, first_ts: int = 1_700_000_000_000) -> dict[str, Any]:
    """A sound message of `dolmen.examples`, with values missing here and there."""

    def sometimes(value: Any) -> Any:
        return value if rng.random() < 0.8 else None

    user = {
        "id": sometimes(int(rng.integers(0, 12))),
        "interests": sometimes([f"t{i}" for i in rng.integers(0, 5, rng.integers(0, 4))]),
        "profile": sometimes({"age": int(rng.integers(10, 80))}),
    }
    some = [
        {
            "id": f"v{rng.integers(0, 20)}",
            **_present(
                tags=sometimes([int(i) for i in rng.integers(0, 6, rng.integers(0, 3))]),
                length_s=sometimes(float(rng.integers(1, 500))),
                plays=sometimes(int(rng.integers(0, 10_000))),
                weight=sometimes(float(rng.integers(0, 3))),
            ),
            "labels": {"click": int(rng.random() < 0.4), **_present(like=sometimes(int(rng.random() < 0.2)))},
        }
        for _ in range(items or int(rng.integers(1, 5)))
    ]
    return {"ts": first_ts + int(rng.integers(0, 3_600_000)), "user": _present(**user), "context": {}, "items": some}


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def columns_of(definition: Definition, messages: Sequence[dict[str, Any]]) -> Columns:
    """Messages as columns."""
    return examples_to_columns(messages, Featurizer(definition).sources, [task.name for task in definition.tasks])


def batch_of(definition: Definition, messages: Sequence[dict[str, Any]]) -> Batch:
    """Messages as one batch."""
    return Featurizer(definition).featurize(columns_of(definition, messages))


def random_batch(definition: Definition, seed: int, lists: int = 20) -> Batch:
    """A batch of random messages."""
    rng = np.random.default_rng(seed)
    return batch_of(definition, [message(rng) for _ in range(lists)])


def lived_batch(definition: Definition, seed: int, lists: int = 20, first_ts: int = 1_700_000_000_000) -> Batch:
    """A batch of random messages with outcomes."""
    rng = np.random.default_rng(seed)
    return batch_of(definition, [lived_message(rng, first_ts) for _ in range(lists)])


def cells(batch: Batch, field: int, fields: int) -> list[list[int | None]]:
    """The ids of one field, an example each; None where missing."""
    offsets = batch.occurrences.offsets
    some = []
    for b in range(len(batch)):
        first, last = offsets[b * fields + field], offsets[b * fields + field + 1]
        ids, missing = batch.occurrences.ids[first:last].tolist(), batch.occurrences.missing[first:last].tolist()
        some.append([None if gone else key for key, gone in zip(ids, missing, strict=True)])
    return some


def contents(batch: Batch) -> list[Any]:
    """All of a batch as lists and bytes, to compare; ids of missing values, which mean nothing, left out."""
    o = batch.occurrences
    return [
        np.where(o.missing, 0, o.ids).tolist(),
        o.missing.tolist(),
        o.offsets.tolist(),
        batch.numbers.tobytes(),
        batch.times_ms.tolist(),
        batch.labels.tobytes(),
        batch.weights.tobytes(),
        batch.sizes.tolist(),
    ]
