"""Fresh against stale: how much a model's scores lose when what serves is brought up to date less often.

**Source**: Liu et al. 2022, Monolith (arXiv 2209.07663), section 3.2 and figure 7: a model trained by batch, then
online, its parameters synchronised to serving at several intervals.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embedding_store.shard import Shard
from experiments.bootstrap import Resampled
from experiments.data import Change, shipped, there, without_statistics
from experiments.page import Page, table
from experiments.run import Run
from services.datasets.reader import open_dataset
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.features import Featurizer
from trainer.learner import Learner
from trainer.validation import auc, quality

_HOUR_MS = 3_600_000
INTERVALS_MS = {"every minute": 60_000, "hourly": _HOUR_MS, "daily": 24 * _HOUR_MS, "frozen": 1 << 60}
COMMIT = "every commit"
STREAMS: dict[str, tuple[str, tuple[Change, ...]]] = {
    "KuaiRand": ("kuairand", ()),
    "KuaiRand without statistics": ("kuairand", (without_statistics,)),
    "synthetic": ("synthetic", ()),
}
_EXAMPLES = 1_500_000  # of synthetic data: five days and a bit
_BATCH_SHARE = 0.5  # of event time, learned before serving begins
_DRAWN_MS = 6 * _HOUR_MS


class Part(NamedTuple):
    """One stream under one seed."""

    stream: str
    seed: int
    limit: int | None


class Served(NamedTuple):
    """What was served after the batch part.

    Attributes:
        times_ms: int64[n], since serving began.
        labels: float64[n].
        scores: float64[n] by interval.
    """

    times_ms: NDArray[np.int64]
    labels: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]


def serve(definition: Definition, whole: Batch, batch_size: int) -> Served:
    """Learns the first half of a stream by batches, the rest list by list, and scores that rest at every interval.

    A reader that is brought up to date at interval I scores all lists up to the next time with what was learned up to
    now; so they are scored here when their interval begins, and nothing need be copied. What the stream has shown of an
    id (statistics) is part of what is brought up to date.

    Args:
        definition: What to learn.
        whole: The stream.
        batch_size: Of the first half.
    """
    starts = np.concatenate([[0], np.cumsum(whole.sizes)[:-1]])
    times = whole.times_ms[starts]
    begin = times[0] + int((times[-1] - times[0]) * _BATCH_SHARE)
    first = int(np.searchsorted(times, begin))
    learner = Learner(definition, Shard(definition.tables, definition.seed, True, definition.admission))
    for batch in whole.lists(0, first).cuts(batch_size):
        learner.score_and_learn(batch)
        learner.shard.sweep(4 * len(batch))
    online = whole.lists(first, whole.sizes.size)
    after = times[first:] - begin
    scores: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (COMMIT, *INTERVALS_MS)}
    scored = dict.fromkeys(INTERVALS_MS, 0)
    for number, one in enumerate(online.cuts(1)):
        for name, interval in INTERVALS_MS.items():
            if scored[name] == number:
                end = int(np.searchsorted(after, (after[number] // interval + 1) * interval))
                ahead = online.lists(number, end).cuts(1 << 14)
                scores[name] += [learner.scorer.probabilities(some)[:, 0] for some in ahead]
                scored[name] = end
        scores[COMMIT].append(learner.score_and_learn(one)[:, 0])
        learner.shard.sweep(4 * len(one))
    return Served(
        online.times_ms - begin,
        online.labels[:, 0].astype(np.float64),
        {name: np.concatenate(some) for name, some in scores.items()},
    )


def one_stream(part: Part) -> Served:
    """Serves one stream; a synthetic one is drawn anew by its seed."""
    dataset, changes = STREAMS[part.stream]
    definition, batch_size = shipped(dataset, part.seed, *changes)
    featurizer = Featurizer(definition)
    options: dict[str, Any] = {"seed": part.seed} if dataset == "synthetic" else {}
    data = open_dataset(dataset, part.limit, **options)
    columns = data.columns(featurizer.sources, [task.name for task in definition.tasks])
    return serve(definition, Batch.join([featurizer.featurize(some) for some in columns]), batch_size)


def run(how: Run) -> Page:
    """AUC and normalized entropy at every interval, on every stream."""
    names, missing = there(["kuairand", "synthetic"])
    streams = [name for name, (dataset, _) in STREAMS.items() if dataset in names]
    seeds = how.some_seeds(3)
    limits = {name: how.examples(_EXAMPLES) if STREAMS[name][0] == "synthetic" else how.limit for name in streams}
    parts = [Part(name, seed, limits[name]) for name in reversed(streams) for seed in seeds]  # the longest first
    done = dict(zip(parts, how.each(one_stream, parts), strict=True))
    found = {name: [done[Part(name, seed, limits[name])] for seed in seeds] for name in streams}
    sections, gains = [], []
    for name, served in found.items():
        body, gain = _section(served)
        sections.append(f"## {name}\n\n{body}")
        gains.append(f"{name} {gain}")
    finding = f"AUC of a model that learns and serves at every commit, less that of one frozen: {'; '.join(gains)}."
    text = (
        "The shipped configurations learn the first half of the stream's event time by batches, and the rest list by "
        "list as it comes. What serves is frozen at the half, or brought up to date at an interval of event time, or "
        f"with every list. Each list is scored by what served at its time. Mean of {len(seeds)} seeds ± the standard "
        "error over resamples of seeds and examples; differences are paired. KuaiRand's seeds draw initial values, "
        "those of the synthetic stream, whose tastes drift and whose items appear one by one, draw the stream too. "
        f"{missing}\n\n" + "\n\n".join(sections)
    )
    return Page("Fresh against stale", finding, text, _drawing(found))


def _section(served: list[Served]) -> tuple[str, str]:
    """A stream's table, and its gain in a few words."""
    labels = [one.labels for one in served]
    areas = {name: Resampled(labels, [one.scores[name] for one in served]) for name in served[0].scores}
    rows = [
        [
            name, str(area.auc()), "" if name == "frozen" else area.less(areas["frozen"]).signed,
            "" if name == COMMIT else area.less(areas[COMMIT]).signed,
            f"{np.mean([quality(one.labels, one.scores[name]).normalized_entropy for one in served]):.4f}",
        ]
        for name, area in areas.items()
    ]  # fmt: skip
    days = served[0].times_ms[-1] / (24 * _HOUR_MS)
    text = f"{labels[0].size:,} examples served in {days:.1f} days.\n\n"
    head = ["brought up to date", "AUC", "less frozen", "less every commit", "normalized entropy"]
    return text + table(head, rows), areas[COMMIT].less(areas["frozen"]).signed


def _drawing(found: dict[str, list[Served]]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        for axis, (stream, served) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
            places = [one.times_ms // _DRAWN_MS for one in served]
            count = 1 + min(int(place[-1]) for place in places)
            for name in served[0].scores:
                areas = [
                    [auc(one.labels[at == n], one.scores[name][at == n]) for n in range(count)]
                    for one, at in zip(served, places, strict=True)
                ]
                axis.plot((1 + np.arange(count)) * (_DRAWN_MS / _HOUR_MS), np.mean(areas, axis=0), label=name)
            axis.set(title=stream, xlabel="hours since serving began", ylabel="AUC of six hours")
            axis.grid(alpha=0.3)
        axis.legend(fontsize=8)

    return draw
