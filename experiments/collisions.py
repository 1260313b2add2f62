"""Collisions: a row an id against rows that ids share by a hash, AUC over time.

**Source**: Liu et al. 2022, Monolith (arXiv 2209.07663), section 3.1 and figure 5. Its hash left 149,970 rows of
162,541 users and 57,361 of 59,047 movies; here tables have the loads at which a hash would do so, and higher ones.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embedding_store.encodings.settings import EncodingSettings
from embedding_store.settings import TableSettings
from experiments.bootstrap import Resampled
from experiments.data import Change, passed, shipped, there, with_model, without_statistics
from experiments.page import Page, table
from experiments.run import Run
from services.settings import Settings
from trainer.curves import curve
from trainer.validation import auc

DATASETS = {"movielens": ("user", "movie"), "kuairand": ("user", "video")}
PAPER = (0.163, 0.058)
"""Ids a bucket of users and movies at which a hash leaves the shares of rows of the paper."""
LOADS: dict[str, tuple[float, float] | None] = {
    "a row an id": None,
    "the paper's collisions": PAPER,
    **{f"{load:g} ids a bucket": (load, load) for load in (0.5, 1.0, 2.0, 4.0, 16.0)},
}
_BATCH = 64


class Part(NamedTuple):
    """One pass."""

    dataset: str
    load: str
    seed: int
    ids: tuple[int, int]
    limit: int | None


class Passed(NamedTuple):
    """Labels and scores, float64[n] each, and the rows of both tables."""

    labels: NDArray[np.float64]
    scores: NDArray[np.float64]
    rows: tuple[int, int]


def _in_buckets(names: tuple[str, str], buckets: tuple[int, int]) -> Change:
    def change(settings: Settings) -> Settings:
        hashed = {
            name: {"encoding": EncodingSettings(kind="hashed", buckets=count)}
            for name, count in zip(names, buckets, strict=True)
        }
        others = [t for t in settings.tables if t.name not in names]
        known = {t.name: t for t in settings.tables}
        made = [known.get(name, TableSettings(name=name)).model_copy(update=hashed[name]) for name in names]
        return settings.model_copy(update={"tables": (*others, *made)})

    return change


def one_pass(part: Part) -> Passed:
    """DeepFM over one stream, without statistics, for these know ids that a hash confuses."""
    names, load = DATASETS[part.dataset], LOADS[part.load]
    changes: list[Change] = [without_statistics, with_model(name="deepfm", wide=None, learning_rate=1e-3)]
    if load is not None:
        users, items = (max(1, round(n / each)) for n, each in zip(part.ids, load, strict=True))
        changes.append(_in_buckets(names, (users, items)))
    definition, _ = shipped(part.dataset, part.seed, *changes)
    found = passed(part.dataset, definition, _BATCH, part.limit)
    labels, scores = found.known(0)
    counts = found.learner.shard.counts
    order = [t.name for t in definition.tables]
    return Passed(labels, scores, (int(counts[order.index(names[0])]), int(counts[order.index(names[1])])))


def run(how: Run) -> Page:
    """AUC at every load, on every data set that is here."""
    names, missing = there(list(DATASETS))
    seeds = how.some_seeds(5)
    plain = next(iter(LOADS))
    first = how.each(one_pass, [Part(d, plain, s, (0, 0), how.limit) for d in names for s in seeds])
    ids = {d: first[n * len(seeds)].rows for n, d in enumerate(names)}
    parts = [Part(d, load, s, ids[d], how.limit) for d in names for load in list(LOADS)[1:] for s in seeds]
    done = dict(zip([(d, plain, s) for d in names for s in seeds], first, strict=True))
    done |= zip([(p.dataset, p.load, p.seed) for p in parts], how.each(one_pass, parts), strict=True)
    found = {d: {load: [done[d, load, s] for s in seeds] for load in LOADS} for d in names}
    sections, lost = [], []
    for d in names:
        body, one = _section(found[d])
        lost.append(f"{d} {one}")
        users, items = ids[d]
        examples = found[d][plain][0].labels.size
        sections.append(f"## {d}\n\n{users:,} users and {items:,} items in {examples:,} examples.\n\n{body}")
    finding = (
        "AUC of hashed tables of users and items, less that of a row an id, over the second half of the stream: "
        f"{'; '.join(lost)}."
    )
    text = (
        "One pass of a DeepFM without statistics, every list scored before it is learned. The tables of users and "
        "items have a row an id or so many buckets; all else is equal. A share of collisions is that of ids without "
        f"a row of their own, as the paper counts it. Mean of {len(seeds)} seeds, which draw the hash too, ± the "
        f"standard error over resamples of seeds and examples; differences are paired. {missing}\n\n"
        + "\n\n".join(sections)
    )
    return Page("Collisions", finding, text, _drawing(found))


def _section(found: dict[str, list[Passed]]) -> tuple[str, str]:
    """A data set's table, and what it loses in a few words."""
    plain, *others = list(found)
    labels = found[plain][0].labels
    half = labels.size // 2
    whole, second = (
        {load: Resampled(labels[cut], [p.scores[cut] for p in done]) for load, done in found.items()}
        for cut in (slice(None), slice(half, None))
    )
    tenths = {load: _tenths(done) for load, done in found.items()}
    rows = [[plain, "", "", str(whole[plain].auc()), "", str(second[plain].auc()), "", ""]]
    for load in others:
        shares = [1 - np.array(p.rows) / np.array(found[plain][0].rows) for p in found[load]]
        collided = np.mean(shares, axis=0)
        rows.append([
            load, f"{collided[0]:.2%}", f"{collided[1]:.2%}", str(whole[load].auc()),
            whole[load].less(whole[plain]).signed, str(second[load].auc()), second[load].less(second[plain]).signed,
            f"{int((tenths[load] < tenths[plain]).sum())} of 10",
        ])  # fmt: skip
    head = ["tables", "users that collide", "items", "AUC", "difference", "AUC, second half", "difference",
            "tenths of the stream in which it is lower"]  # fmt: skip
    few = [f"{second[load].less(second[plain]).signed} ({load})" for load in (others[0], "2 ids a bucket")]
    return table(head, rows), " and ".join(few)


def _tenths(done: list[Passed]) -> NDArray[np.float64]:
    """float64[10], the mean AUC in each tenth of the stream."""
    edges = np.linspace(0, done[0].labels.size, 11).round().astype(np.int64)
    return np.array([
        np.mean([auc(p.labels[a:b], p.scores[a:b]) for p in done])
        for a, b in pairwise(edges)
    ])  # fmt: skip


def _drawing(found: dict[str, dict[str, list[Passed]]]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        for axis, (dataset, loads) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
            for load, done in loads.items():
                curves = [curve(p.labels, p.scores) for p in done]
                axis.plot(curves[0].examples, np.mean([c.auc for c in curves], axis=0), label=load)
            axis.set(title=dataset, xlabel="examples", ylabel=f"AUC of the last {curves[0].window:,}")
            axis.grid(alpha=0.3)
        axis.legend(fontsize=8)

    return draw
