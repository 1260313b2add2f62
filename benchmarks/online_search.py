"""The live dimension search where the truth is known: clicks by dot products in which each block uses its own axes.

One process, no Kafka, no Redis; every batch is scored, then searched on, then learned from. *Cold*: a model and a
search that begin with nothing. *Warm*: a search that begins on a model that was trained and aligned. *Change*: the
blocks' dimensions change along the axes that are there.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from embedding_store.lookup import Occurrences
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.example import examples_to_columns
from trainer.learner import Learner
from trainer.search.live_table import block_of
from trainer.search.online import OnlineSearch
from trainer.search.planted import ITEM, USER, Truth, definition, make_truth
from trainer.search.settings import OnlineSearchSettings

BATCH = 512
DIMS = (1, 2, 3, 4, 6, 8)
CHANGED = (1, 2, 5, 6, 4, 6)
"""Dimensions of the blocks, the rarest first, and what they change to."""
_CHUNK = 1 << 15


def live_definition(dim: int = 16, rate: float = 0.01) -> Definition:
    """The truth's own model, its vectors by Adam: with one rate a row, an axis that begins small stays small."""
    model = definition(dim)
    tables = tuple(
        TableSettings.model_validate({**t.model_dump(exclude_unset=True), "optimizer": "adam", "learning_rate": rate})
        for t in model.tables
    )
    return model.model_copy(update={"tables": tables})


@dataclass(slots=True)
class Run:
    """A learner that is fed from truths.

    Attributes:
        learner: With its search.
        rng: Of the stream.
        done: Examples so far.
    """

    learner: Learner
    rng: np.random.Generator
    done: int = 0

    @classmethod
    def begin(cls, model: Definition, seed: int) -> "Run":
        """A learner that knows nothing."""
        return cls(Learner(model, Shard(model.tables, seed, True)), np.random.default_rng((seed, 1)))

    def search(self, settings: OnlineSearchSettings) -> OnlineSearch:
        """Begins a search."""
        self.learner.search = OnlineSearch(self.learner.shard, settings, [ITEM, USER], True)
        return self.learner.search

    def feed(self, truth: Truth, examples: int, auto: bool = False) -> float:
        """Learns so many examples; returns the log loss of the last quarter of them.

        Args:
            truth: What they are drawn from.
            examples: How many.
            auto: Whether plans that take dimensions away are taken over; those that only turn the axes always are.
        """
        losses = []
        for batch in self.batches(truth, examples):
            scores, labels = self.learner.score_and_learn(batch)[:, 0], batch.labels[:, 0]
            losses.append(-np.log(np.where(labels > 0.5, scores, 1.0 - scores)).mean())
            proposals = self.learner.search.judge() if self.learner.search is not None else []
            self.learner.shard.set_plans(
                {found.table: found.plan for found in proposals if auto or found.numbers == found.numbers_before}
            )
        return float(np.mean(losses[-len(losses) // 4 :]))

    def batches(self, truth: Truth, examples: int) -> Iterator[Batch]:
        """So many examples of a truth, as the learner takes them."""
        scorer = self.learner.scorer
        one = [{"ts": 1, "user": {"id": 0}, "context": {}, "items": [{"id": 0, "labels": {"click": 0}}]}]
        shape = scorer.featurizer.featurize(examples_to_columns(one, scorer.featurizer.sources, scorer.tasks))
        fields = [field.name for field in scorer.featurizer.fields]
        for first in range(0, examples, _CHUNK):
            user, item, labels = truth.draw(self.rng, min(_CHUNK, examples - first))
            ids = np.stack([{USER: user, ITEM: item}[name] for name in fields], 1).astype(np.int64)
            for at in range(0, labels.size, BATCH):
                yield self._batch(shape, ids[at : at + BATCH], labels[at : at + BATCH])

    def _batch(self, shape: Batch, ids: NDArray[np.int64], labels: NDArray[np.float32]) -> Batch:
        size = labels.size
        repeated = {
            name: np.repeat(value, size, axis=0)
            for name in shape.__dataclass_fields__
            if isinstance(value := getattr(shape, name), np.ndarray)
        }
        origins = np.arange(self.done, self.done + size)
        self.done += size
        flat = Occurrences(ids.ravel(), np.zeros(ids.size, np.bool_), np.arange(ids.size + 1))
        return replace(
            shape,
            **{
                **repeated,
                "occurrences": flat,
                "labels": labels[:, None],
                "times_ms": origins + 1,
                "origins": origins.astype(np.uint64),
            },
        )

    def widths(self, truth: Truth) -> list[float]:
        """Dimensions in use by the items of each of the truth's blocks, the mean over its items."""
        shard, search = self.learner.shard, self.learner.search
        assert search is not None  # noqa: S101 - of a run with a search
        rows = shard.live_rows(shard.number[ITEM])
        headers = shard.rows.headers[rows]
        used = search.tables[ITEM].in_use().sum(1)[block_of(headers["count"].astype(np.int64))]
        blocks = truth.blocks[headers["id"].astype(np.int64)]
        return [float(used[blocks == block].mean()) for block in range(len(truth.dims))]


def far(widths: list[float], truth: Truth) -> float:
    """The largest distance of a block from the truth."""
    return float(np.abs(np.array(widths) - truth.dims).max())


def cold(seed: int, auto: bool, events: int = 2_000_000) -> tuple[Run, Truth]:
    """A model and a search from nothing, axes chosen at each quarter."""
    truth = make_truth(seed, DIMS, users=500)
    run = Run.begin(live_definition(), seed)
    run.search(OnlineSearchSettings(align=(events // 4, events // 2, 3 * events // 4)))
    run.feed(truth, events, auto)
    return run, truth


def warm(seed: int, events: int = 1_000_000) -> tuple[Run, Truth]:
    """A search of so many events on a model that was trained on as many and whose rows were turned to their axes."""
    truth = make_truth(seed, DIMS, users=500)
    run = Run.begin(live_definition(), seed)
    run.search(OnlineSearchSettings(align=(events // 2, 3 * events // 4, events)))
    run.feed(truth, events)
    run.search(OnlineSearchSettings(align=()))
    run.feed(truth, events)
    return run, truth


def figures(seeds: Iterable[int]) -> Iterator[list[str]]:
    """One row a measurement: name, seed, the widths found, the largest distance, seconds."""
    for seed in seeds:
        start = time.thread_time()
        run, truth = warm(seed)
        yield _row("warm, after 1 M events", seed, run, truth, start)
        start = time.thread_time()
        after = truth.changed(CHANGED)
        for part in ("250 k", "500 k"):
            run.feed(after, 250_000)
            yield _row(f"{part} events after a change", seed, run, after, start)
        for auto in (False, True):
            start = time.thread_time()
            run, truth = cold(seed, auto)
            yield _row(f"cold, after 2 M events{', plans taken over' if auto else ''}", seed, run, truth, start)


def _row(name: str, seed: int, run: Run, truth: Truth, start: float) -> list[str]:
    widths = run.widths(truth)
    wanted = "/".join(map(str, truth.dims))
    found = "/".join(f"{width:.1f}" for width in widths)
    return [name, str(seed), wanted, found, f"{far(widths, truth):.1f}", f"{time.thread_time() - start:.0f} s"]


def section(seeds: int = 5) -> str:
    """For docs/performance.md."""
    head = ["", "seed", "dimensions, rarest block first", "found", "largest distance", "CPU time"]
    return table(head, list(figures(range(1, seeds + 1))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    args = parser.parse_args()
    for row in figures(range(args.seed, args.seed + args.seeds)):
        print(" | ".join(row), flush=True)
