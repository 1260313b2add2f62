"""Statistics and the visitor's past as the model gets them: the right numbers, and never a label too early."""

import copy
import math
import re
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from embedding_store.ids import feature_id
from embedding_store.settings import SPARE, TableSettings
from embedding_store.shard import Shard
from tests.definitions import (
    STATISTICS,
    batch_of,
    feature,
    full_definition,
    lived_batch,
    lived_message,
    statistic,
)
from trainer.batch import Batch
from trainer.definition import Definition, define
from trainer.learner import Learner
from trainer.scorer import Scorer
from trainer.settings import FeatureSettings, ModelSettings, TaskSettings
from trainer.statistic_settings import StatisticSettings
from trainer.validation import auc

HOUR = 3_600_000
MASK = (1 << 64) - 1


def learner_of(definition: Definition) -> Learner:
    return Learner(definition, Shard(definition.tables, definition.seed))


# The numbers


def crossed(left: int, right: int) -> int:
    """The id of a pair, in Python's integers."""
    x = ((left & MASK) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & MASK
    x ^= x >> 32
    x = ((x + (right & MASK)) * 0xD6E8FEB86659FD93) & MASK
    x ^= x >> 32
    x = (x * 0xD6E8FEB86659FD93) & MASK
    x ^= x >> 32
    return x - (1 << 64) if x >> 63 else x


def bucket(value: float, edges: tuple[float, ...]) -> int:
    return 0 if math.isnan(value) else 1 + sum(value >= edge for edge in edges)


class Naive:
    """What every user, video and pair has lived through, as plain lists of (time, item)."""

    def __init__(self) -> None:
        self.users: dict[Any, list[Any]] = defaultdict(list)
        self.videos: dict[Any, list[Any]] = defaultdict(list)
        self.pairs: dict[Any, list[Any]] = defaultdict(list)
        self.lengths: dict[Any, list[Any]] = defaultdict(list)
        self.past: dict[Any, list[Any]] = defaultdict(list)

    def take(self, message: Any) -> None:
        user = message["user"].get("id")
        for item in message["items"]:
            seen = (message["ts"], item)
            self.videos[item["id"]].append(seen)
            if user is None:
                continue
            self.users[user].append(seen)
            self.pairs[user, item["id"]].append(seen)
            if "length_s" in item:
                self.lengths[user, self.length(item)].append(seen)
            if item["labels"]["click"] >= 0.5:
                past = self.past[user]
                place = sum(time > message["ts"] for time, _ in past)
                past.insert(place, (message["ts"], item["id"]))
                del past[4 + SPARE :]

    @staticmethod
    def length(item: Any) -> int:
        return sum(item["length_s"] >= edge for edge in (10.0, 60.0, 300.0))

    def says(self, message: Any, item: Any) -> tuple[dict[str, float], dict[str, int | None]]:
        """Numbers and ids of one example."""
        now, user = message["ts"], message["user"].get("id")
        mine = self.users[user] if user is not None else []
        as_of = max([now, *(time for time, _ in mine)])
        shares = [2 ** ((time - as_of) / HOUR) for time, _ in mine]
        clicks = sum(s * x["labels"]["click"] for s, (_, x) in zip(shares, mine, strict=True))
        plays = [(t, x["outcomes"]["play_ms"]) for t, x in self.videos[item["id"]] if "outcomes" in x]
        end = max([now, *(time for time, _ in plays)]) // 900_000
        plays = [math.log1p(x / 1000) for time, x in plays if time // 900_000 > end - 8]
        held = sorted({time for time, _ in mine}, reverse=True)[: 1 + SPARE]
        gap = next(((now - time) / 1000 for time in held if time <= now), math.nan)
        numbers = {
            "click_rate": (clicks + 1.6) / (sum(shares) + 4),
            "play": (sum(plays) + 2) / (len(plays) + 2),
            "log_gap": math.log1p(gap),
        }
        likes = bucket(sum(x["labels"].get("like") == 1 for _, x in mine), (1, 3))
        pair = self.pairs[user, item["id"]] if user is not None else []
        last = [*[x["labels"]["click"] for _, x in pair[::-1]][:2], math.nan, math.nan]
        length = self.length(item) if "length_s" in item else None
        same = self.lengths[user, length] if None not in (user, length) else []
        played = [x["labels"]["click"] for _, x in same if x.get("outcomes", {}).get("play_ms", 0) > 800]
        rate = sum(played) / len(played) if played else math.nan
        ids = {
            "likes": likes,
            "last_two": bucket(last[0], (0.5,)) * 3 + bucket(last[1], (0.5,)),
            "long_play": bucket(rate, (0.3, 0.6)),
            "likes_x_gap_x_length": None if length is None else crossed(crossed(likes, bucket(gap, (60, 600))), length),
        }
        return numbers, ids


def test_numbers_ids_crosses_and_pasts_are_those_of_a_recount():
    definition = full_definition("deepfm")
    some = learner_of(definition)
    naive = Naive()
    rng = np.random.default_rng(4)
    names = [field.name for field in definition.fields]
    numbers = some.scorer.featurizer.numbers
    for round_ in range(40):
        messages = [lived_message(rng, 1_700_000_000_000 + round_ * 900_000) for _ in range(5)]
        batch = batch_of(definition, messages)
        remembered = some.scorer.embedder.stream.read(batch)
        b = 0
        for one in messages:
            for item in one["items"]:
                values, ids = naive.says(one, item)
                for name, value in values.items():
                    assert remembered.numbers[b, numbers.index(name)] == pytest.approx(value, rel=1e-5, nan_ok=True)
                for name, key in ids.items():
                    at = remembered.occurrences.offsets[b * len(names) + names.index(name)]
                    assert remembered.occurrences.missing[at] == (key is None)
                    assert key is None or remembered.occurrences.ids[at] == key
                past = naive.past[one["user"].get("id")] if "id" in one["user"] else []
                past = [(time, key) for time, key in past if time <= one["ts"]][:4]
                assert remembered.past is not None
                count = int(remembered.past.counts[b])
                assert remembered.past.items[b, :count].tolist() == [feature_id(key) for _, key in past]
                assert remembered.past.times_ms[b, :count].tolist() == [time for time, _ in past]
                b += 1
        some.score_and_learn(batch)
        for one in messages:
            naive.take(one)


# Never a label too early


def changed(messages: list[Any]) -> list[Any]:
    """The same lists with other labels and outcomes."""
    other = copy.deepcopy(messages)
    for one in other:
        for item in one["items"]:
            item["labels"] = {task: 1 - label for task, label in item["labels"].items()}
            item["outcomes"] = {"play_ms": 2999.0 - item.get("outcomes", {}).get("play_ms", 0.0)}
    return other


def leaky(seed: int, lists: int) -> list[Any]:
    """A stream made to catch leaks: a list has one label, which a coin gave, and may hold an item twice."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(lists):
        label, item = int(rng.integers(0, 2)), int(rng.integers(0, 5))
        items = [{"id": f"v{item}"}, {"id": f"v{item}"}, {"id": f"v{rng.integers(0, 5)}"}]
        for one in items:
            one |= {"labels": {"click": label, "like": label}, "outcomes": {"play_ms": 2000.0 * label}}
        found.append({"ts": 1_700_000_000_000 + 60_000 * n, "user": {"id": n % 3}, "items": items})
    return found


@pytest.mark.parametrize("model", ["din", "deepfm", "residual"])
@pytest.mark.parametrize("size", [1, 7])
def test_no_score_up_to_a_batch_changes_with_the_labels_of_it_and_of_later_ones(model, size):
    definition = full_definition(model)
    rng = np.random.default_rng(size)
    streams = [leaky(size, 30), [lived_message(rng) for _ in range(30)]]
    for messages in streams:
        cuts = [messages[first : first + size] for first in range(0, len(messages), size)]
        whole = learner_of(definition)
        expected = [whole.score_and_learn(batch_of(definition, part)) for part in cuts]
        for k in range(0, len(cuts), max(1, len(cuts) // 5)):
            other = learner_of(definition)
            for n, part in enumerate(cuts[: k + 2]):
                scores = other.score_and_learn(batch_of(definition, part if n < k else changed(part)))
                if n <= k:
                    assert scores.tobytes() == expected[n].tobytes()
                elif size > 1:
                    assert scores.tobytes() != expected[n].tobytes()  # the change is one that matters


def test_nothing_is_to_be_known_of_a_coin_unless_lists_are_torn_apart():
    definition = full_definition("residual")
    quality = []
    for torn in (False, True):
        some = learner_of(definition)
        messages = leaky(3, 800)
        if torn:
            messages = [{**one, "items": [item]} for one in messages for item in one["items"]]
        batches = [batch_of(definition, [one]) for one in messages]
        scores = np.concatenate([some.score_and_learn(batch)[:, 0] for batch in batches])
        labels = np.concatenate([batch.labels[:, 0] for batch in batches])
        quality.append(auc(labels[300:].astype(np.float64), scores[300:]))
    assert 0.42 < quality[0] < 0.58
    assert quality[1] > 0.68  # so the stream does catch them


def test_an_outcome_and_a_label_are_no_part_of_a_request():
    definition = full_definition("din")
    some = learner_of(definition)
    for seed in range(3):
        some.score_and_learn(lived_batch(definition, seed))
    rng = np.random.default_rng(9)
    messages = [lived_message(rng) for _ in range(10)]
    scores = [some.scorer.probabilities(batch_of(definition, some_)) for some_ in (messages, changed(messages))]
    assert scores[0].tobytes() == scores[1].tobytes()


# Trainer and ranker


@pytest.mark.parametrize("model", ["din", "deepfm", "fm", "dcn", "residual"])
@pytest.mark.parametrize("wide", ["gaussian", "ftrl", None])
def test_a_reader_scores_as_the_trainer_does_with_everything_on(model, wide):
    definition = full_definition(model, wide)
    some = learner_of(definition)
    reader = Scorer(definition, Shard(definition.tables, definition.seed, learning=False))
    for seed in range(6):
        some.score_and_learn(lived_batch(definition, seed, first_ts=1_700_000_000_000 + 20 * HOUR * seed))
        some.shard.sweep(40)
        blocks, gone = some.shard.take_changes()
        for name, ids in gone.items():
            reader.shard.remove(reader.shard.number[name], ids)
        for block in blocks:
            reader.shard.apply(block)
        reader.shard.clock_ms = some.shard.clock_ms
        reader.load_dense(some.parts()["dense"])
        reader.load_numbers(some.parts()["numbers"])
        request = lived_batch(definition, 100 + seed, first_ts=1_700_000_000_000 + 20 * HOUR * seed)
        mine, theirs = some.scorer.score(request), reader.score(request)
        np.testing.assert_allclose(theirs.probabilities, mine.probabilities, atol=1e-6, rtol=0)
        if wide == "gaussian":
            assert theirs.variances is not None
            assert mine.deviations is not None
            np.testing.assert_allclose(theirs.variances, mine.variances, rtol=1e-9)
            assert (mine.deviations > 0).all()


@pytest.mark.parametrize("model", ["din", "residual"])
def test_the_scores_of_a_list_do_not_depend_on_what_it_is_batched_with(model):
    definition = full_definition(model)
    some = learner_of(definition)
    for seed in range(4):
        some.score_and_learn(lived_batch(definition, seed))
    batch: Batch = lived_batch(definition, 77)
    alone = np.concatenate([some.scorer.probabilities(part) for part in batch.cuts(1)])
    np.testing.assert_allclose(alone, some.scorer.probabilities(batch), atol=1e-6, rtol=0)


# Faults of the configuration

USER, VIDEO = feature("user", source="user.id"), feature("video", source="item.id")
CLICK = (TaskSettings(name="click"),)


def defined(
    features: tuple[FeatureSettings, ...] = (USER, VIDEO),
    statistics: tuple[StatisticSettings, ...] = (),
    tables: tuple[TableSettings, ...] = (),
    **model: Any,
) -> Definition:
    return define(tables, features, CLICK, ModelSettings.model_validate(model), 1, statistics=statistics)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"kind": "rate"}, "`of` is missing"),
        ({"kind": "last"}, "`of` is missing"),
        ({"kind": "rate", "of": "click"}, "`of` 'click' must be labels.NAME or outcomes.NAME"),
        ({"kind": "count", "where": "click = 1"}, "`where` 'click = 1' must read like"),
        ({"kind": "count", "where": "labels.click = yes"}, "`where`"),
        ({"kind": "count", "where": "labels.click == 1"}, "`where`"),
        ({"kind": "count", "where": "labels.click = 1 or labels.like = 1"}, "`where`"),
        ({"kind": "count", "prior": (1, 1)}, "`prior` goes with kinds rate and mean only"),
        ({"kind": "rate", "of": "labels.click", "prior": (1, -1)}, "its weight is at least 0"),
        ({"kind": "since", "half_life": "1h"}, "`half_life` and `window` go with"),
        ({"kind": "last", "of": "labels.click", "window": "1h"}, "`half_life` and `window` go with"),
        ({"kind": "count", "half_life": "1h", "window": "1h"}, "exclude each other"),
        ({"kind": "last", "of": "labels.click", "length": 3}, "`length` goes with kind last and `buckets` only"),
        ({"kind": "count", "length": 3, "buckets": (1,)}, "`length` goes with kind last"),
        ({"kind": "count", "buckets": ()}, "`buckets` must be edges in rising order"),
        ({"kind": "count", "buckets": (2, 1)}, "`buckets` must be edges in rising order"),
        ({"kind": "count", "buckets": (1,), "transform": "log"}, "`transform` does not go with `buckets`"),
        ({"kind": "count", "table": "t"}, "go with `buckets` only"),
        ({"kind": "count", "prior_variance": 1}, "go with `buckets` only"),
        ({"kind": "count", "input": False}, "go with `buckets` only"),
        ({"kind": "count", "by": ("u" * 40, "v" * 40)}, "`by`"),
        ({"kind": "count", "by": ()}, "by"),
        ({"kind": "count", "unit": 0}, "unit"),
        ({"kind": "count", "half_life": 5}, "is no duration"),
        ({"kind": "median"}, "kind"),
        ({"kind": "count", "colour": 1}, "colour"),
    ],
)
def test_a_fault_of_a_statistic_names_its_key(value, fault):
    with pytest.raises(ValueError, match=re.escape(fault)):
        StatisticSettings.model_validate({"name": "s", "by": ("user",), **value})


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({}, "`table` is missing"),
        ({"table": "video", "source": "item.id"}, "`source` 'item.id' must begin with user. or context."),
        ({"table": "video", "inputs": ("user", "video")}, "`inputs` goes with kind cross only"),
        ({"table": "video", "of": "labels.click"}, "`of` 'labels.click' must be the name of a label alone"),
        ({"table": "video", "length": 0}, "length"),
        ({"table": "video", "length": 501}, "length"),
    ],
)
def test_a_fault_of_a_sequence_names_its_key(value, fault):
    with pytest.raises(ValueError, match=re.escape(fault)):
        feature("past", "sequence", **value)


PAST = feature("past", "sequence", table="video")
BUCKETED = statistic("seen", "user", "count", buckets=(1,))


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"statistics": (statistic("s", "who", "count"),)}, "statistics.s.by: 'who' must be a feature of kind id"),
        (
            {"features": (USER, feature("t", "ids", "item.t")), "statistics": (statistic("s", "t", "count"),)},
            "statistics.s.by: 't' must be",
        ),
        ({"statistics": (statistic("user", "user", "count"),)}, "statistics.user: there is a feature of this name"),
        ({"statistics": (BUCKETED, BUCKETED)}, "statistics: the name 'seen' is given twice"),
        (
            {
                "features": (USER, VIDEO, feature("user_x_video", source="context.pair")),
                "statistics": (statistic("a", "user video", "count"), statistic("b", "user_x_video", "count")),
            },
            "statistics.b.by: ['user_x_video'] and ['user', 'video'] make one table name, 'by.user_x_video'",
        ),
        (
            {
                "features": (USER, feature("c", "cross", inputs=("user", "s"))),
                "statistics": (statistic("s", "user", "count"),),
            },
            "features.c.inputs: there is no feature 's', and no statistic with buckets",
        ),
        ({"features": (USER, VIDEO, PAST, feature("b", "sequence", table="video"))}, "features.b: there is a sequence"),
        ({"features": (USER, VIDEO, feature("b", "sequence", table="t"))}, "features.b.table: no feature of kind id"),
        ({"features": (VIDEO, PAST)}, "features.past: a feature of kind id from user.id is needed"),
        ({"statistics": (BUCKETED,), "tables": (TableSettings(name="by.user", dim=4),)}, "tables.by.user.dim: does"),
        (
            {"features": (USER, VIDEO, PAST), "tables": (TableSettings(name="past", optimizer="adam"),)},
            "tables.past.optimizer: does not go with a table of sequence",
        ),
        ({"tables": (TableSettings(name="user", kind="statistics"),)}, "tables.user.kind: what uses the table sets it"),
        ({"tables": (TableSettings(name="user", linear="gaussian"),)}, "tables.user.linear: what uses the table"),
        ({"tables": (TableSettings(name="user", tasks=3),)}, "tables.user.tasks: what uses the table sets it"),
        (
            {"features": (USER, VIDEO, feature("by.user", source="context.x")), "statistics": (BUCKETED,)},
            "tables.by.user: the name is used twice",
        ),
        (
            {
                "features": (
                    feature("user", source="user.id", prior_variance=1),
                    feature("other", source="user.b", table="user", prior_variance=2),
                ),
                "wide": "gaussian",
            },
            "tables.user: its features give several values of prior_variance",
        ),
    ],
)  # fmt: skip
def test_a_fault_across_sections_names_its_key(parts, fault):
    with pytest.raises(ValueError, match=re.escape(fault)):
        defined(**parts)


def test_a_statistics_table_takes_its_own_admission_and_expiry():
    tables = (
        TableSettings(name="by.user", expire_after="3d", admit_after=2),
        TableSettings(name="past", expire_after="1d"),
    )
    found = defined((USER, VIDEO, PAST), (BUCKETED,), tables)
    by_name = {table.name: table for table in found.tables}
    assert (by_name["by.user"].expire_after, by_name["by.user"].admit_after) == (3 * 24 * HOUR, 2)
    assert by_name["past"].expire_after == 24 * HOUR
    assert Definition.from_json(found.to_json()) == found


def test_inputs_that_differ_in_a_far_digit_are_two():
    some = [statistic("s", "user", "mean", of="outcomes.x", unit=unit).takes for unit in (1234567.0, 1234568.0, 1.0)]
    assert len(set(some)) == 3
    assert STATISTICS[1].takes == "log(outcomes.play_ms / 1000)"
