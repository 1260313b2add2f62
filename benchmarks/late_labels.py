"""Clicks that reach Kafka late, in a changing world: joiners that wait, that do not wait, and that correct themselves.

Every list is scored when it is shown, by what was learned until then; the truth is known.
"""

import argparse
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.markdown import table
from embedding_store.shard import Shard
from services.joiner.join import Join, Tally
from services.joiner.pending import Pending
from services.joiner.record import Record
from services.joiner.rules import Rules, Task
from trainer.definition import Definition, define
from trainer.example import examples_to_columns, parse_example
from trainer.learner import Learner
from trainer.settings import FeatureSettings, ModelSettings, TaskSettings
from trainer.statistic_settings import StatisticSettings
from trainer.validation import auc
from trainer.warmup import compile_kernels

START_MS = 1_767_225_600_000
STEP_MS = 2_000
LISTS = 10  # a step
SIZE = 5
ITEMS = 200
USERS = 500
CLICK_MS = 2_000  # from the list to the click
DELAY_S = 30.0
FADE_S = 600.0
WINDOWS_S = (20, 120, 600)
STEPS = 3_000
MODES = {"window": (False, 0), "eager": (True, 0), "eager, with corrections": (True, 1_800_000)}


@dataclass(frozen=True, slots=True)
class World:
    """T steps of L lists of S items: who saw what, how likely a click was, and when it reached Kafka.

    Attributes:
        users: int64[T, L].
        items: int64[T, L, S].
        truth: float64[T, L, S].
        delays_ms: int64[T, L, S], from the list to the click's arrival; -1 for none.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    truth: NDArray[np.float64]
    delays_ms: NDArray[np.int64]


def make_world(steps: int, seed: int = 7) -> World:
    """Items whose appeal wanders within ten minutes, users who click more or less, clicks half a minute late or so."""
    rng = np.random.default_rng(seed)
    keep = float(np.exp(-STEP_MS / 1000 / FADE_S))
    appeal, eagerness = rng.normal(0, 1.2, ITEMS), rng.normal(0, 0.5, USERS)
    users = rng.integers(0, USERS, (steps, LISTS))
    items = np.argsort(rng.random((steps, LISTS, ITEMS)), axis=2)[:, :, :SIZE]
    truth = np.empty(items.shape)
    for t in range(steps):
        truth[t] = 1 / (1 + np.exp(2.2 - appeal[items[t]] - eagerness[users[t]][:, None]))
        appeal = keep * appeal + np.sqrt(1 - keep**2) * rng.normal(0, 1.2, ITEMS)
    clicks = rng.random(truth.shape) < truth
    delays = (rng.exponential(DELAY_S, truth.shape) * 1000).astype(np.int64)
    return World(users, items.astype(np.int64), truth, np.where(clicks, delays, -1))


def definition() -> Definition:
    """User and item as Gaussian weights; how the item has done of late; a network over both."""
    late = {"by": ("item",), "of": "labels.click", "half_life": "5m", "prior": (0.1, 5)}
    return define(
        (),
        (
            FeatureSettings(name="user", kind="id", source="user.id", prior_variance=0.2),
            FeatureSettings(name="item", kind="id", source="item.id", prior_variance=0.2),
        ),
        (TaskSettings(name="click"),),
        ModelSettings(name="residual", wide="gaussian", hidden=(32,)),
        1,
        statistics=(
            StatisticSettings.model_validate({"name": "rate", "kind": "rate", "transform": "log", **late}),
            StatisticSettings.model_validate({"name": "clicked", "by": ("user",), "kind": "since", "transform": "log",
                                              "where": "labels.click = 1"}),
        ),
    )  # fmt: skip


def events(world: World, t: int, waiting: list[tuple[int, str, str, int]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What arrives in step t, in order: side 0 are impressions, 1 actions. `waiting` holds the clicks on their way."""
    for n in range(LISTS):
        ts, request = START_MS + t * STEP_MS + n * STEP_MS // LISTS, f"{t}-{n}"
        while waiting and waiting[0][0] <= ts:
            _, of, item, clicked_ms = heapq.heappop(waiting)
            yield 1, {"request_id": of, "ts": clicked_ms, "item_id": item, "action": "click"}
        shown = [{"id": f"i{item}"} for item in world.items[t, n].tolist()]
        yield 0, {"request_id": request, "ts": ts, "user": {"id": int(world.users[t, n])}, "items": shown}
        for item, delay_ms in zip(world.items[t, n].tolist(), world.delays_ms[t, n].tolist(), strict=True):
            if delay_ms >= 0:
                heapq.heappush(waiting, (ts + delay_ms, request, f"i{item}", ts + min(delay_ms, CLICK_MS)))


def measure(world: World, window_s: int, eager: bool, late_ms: int) -> dict[str, float]:
    """AUC and calibration of the second half of the lists, each scored when it was shown."""
    rules = Rules((Task("click", "click", None, 1000 * window_s, 1.0),), (), eager, 1_000, 0, late_ms, 1.0)
    join = Join(Record(), rules, Pending(rules.horizon_ms, 1 << 30), Tally())
    model = definition()
    learner = Learner(model, Shard(model.tables, model.seed, learning=True))
    featurizer, steps = learner.scorer.featurizer, len(world.users)
    waiting: list[tuple[int, str, str, int]] = []
    scores = np.empty(world.truth.shape)
    for t in range(steps):
        lists = [
            {
                "ts": START_MS + t * STEP_MS,
                "user": {"id": user},
                "items": [{"id": f"i{item}", "labels": {}} for item in of],
            }
            for user, of in zip(world.users[t].tolist(), world.items[t].tolist(), strict=True)
        ]
        shown = featurizer.featurize(examples_to_columns(lists, featurizer.sources, ["click"]))
        scores[t] = learner.scorer.probabilities(shown).reshape(LISTS, SIZE)
        for side, event in events(world, t, waiting):
            offset = join.sides[side].next
            if side:
                join.action(offset, event)
            else:
                join.impression(offset, event, orjson.dumps(event))
            join.settle()
        messages = [parse_example(value, ["click"]) for _, value in join.out]
        join.out.clear()
        if messages:
            batch = featurizer.featurize(examples_to_columns(messages, featurizer.sources, ["click"]))
            for part in batch.cuts(64):
                learner.score_and_learn(part)
    half = slice(steps // 2, None)
    clicked = (world.delays_ms[half] >= 0).ravel().astype(np.float64)
    return {
        "auc": auc(clicked, scores[half].ravel()),
        "calibration": float(scores[half].sum() / world.truth[half].sum()),
        "auc_truth": auc(clicked, world.truth[half].ravel()),
    }


def section(steps: int = STEPS) -> str:
    """The table."""
    compile_kernels(definition())
    world, rows, truth = make_world(steps), [], 0.0
    for window_s in WINDOWS_S:
        for mode, (eager, late_ms) in MODES.items():
            r = measure(world, window_s, eager, late_ms)
            truth = r["auc_truth"]
            within = float((world.delays_ms[world.delays_ms >= 0] <= 1000 * window_s).mean())
            rows.append([f"{window_s} s", f"{within:.0%}", mode, f"{r['auc']:.4f}", f"{r['calibration']:.3f}"])
            print(rows[-1], flush=True)
    rows.append(["", "", "the true probabilities", f"{truth:.4f}", "1"])
    return table(
        ["attribution window", "clicks that arrive in it", "joiner", "AUC", "served to true probability"], rows
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    print(section(parser.parse_args().steps))
