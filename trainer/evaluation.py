"""Progressive validation of a whole stream in one process: no Kafka, no Redis."""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_store.shard import Shard
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.example import Columns
from trainer.learner import Learner
from trainer.slices import Slices
from trainer.validation import auc, by_value, calibration_error, quality, reliability
from trainer.warmup import compile_kernels


@dataclass(slots=True)
class Evaluation:
    """What a pass over a stream gave.

    Attributes:
        seconds: First batch to last, compilation excluded.
        learner: The model after the pass.
        labels: float32[n, T], NaN where absent.
        scores: float64[n, T], given before the label was learned.
        slices: By whose values quality is told apart.
        slice_ids: int64[n, S], the value of each example in each slice.
        truths: float64[n], the true probability of the first task, where it is known.
    """

    seconds: float
    learner: Learner
    labels: NDArray[np.float32]
    scores: NDArray[np.float64]
    slices: Slices
    slice_ids: NDArray[np.int64]
    truths: NDArray[np.float64] | None = field(default=None)

    def report(self, tail: int | None = None) -> dict[str, Any]:
        """The figures as one JSON object.

        Args:
            tail: Adds ``auc_tail`` over the last so many examples, and ``auc_tail_truth`` where the truth is known.
        """
        shard, scorer = self.learner.shard, self.learner.scorer
        counts = shard.counts
        tasks = {task: _without_nan(self._task(t, tail)) for t, task in enumerate(scorer.tasks)}
        examples = int(self.labels.shape[0])
        return {
            "examples": examples,
            "seconds": self.seconds,
            "examples_per_second": examples / self.seconds if self.seconds else 0.0,
            "parameters": {
                "embedding": shard.parameters,
                "dense": int(scorer.weights.size),
            },
            "rows": int(counts.sum()),
            "bytes": shard.nbytes,
            "tasks": tasks,
        }

    def known(self, task_number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One task's labels float64[m] and scores float64[m], where there is a label."""
        there = ~np.isnan(self.labels[:, task_number])
        return self.labels[there, task_number].astype(np.float64), self.scores[there, task_number]

    def _task(self, t: int, tail: int | None) -> dict[str, Any]:
        """The figures of one task."""
        label, score = self.known(t)
        there = ~np.isnan(self.labels[:, t])
        whole = quality(label, score)
        half = int(there[: there.size // 2].sum())
        table = reliability(label, score)
        row: dict[str, Any] = {
            "auc": whole.auc,
            "auc_second_half": auc(label[half:], score[half:]),
            "log_loss": whole.log_loss,
            "normalized_entropy": whole.normalized_entropy,
            "calibration": whole.calibration,
            "calibration_error": calibration_error(table),
        }
        if tail:
            last = int(there[:-tail].sum())
            row["auc_tail"] = auc(label[last:], score[last:])
            if t == 0 and self.truths is not None:
                row["auc_tail_truth"] = auc(label[last:], self.truths[there][last:])
        row["reliability"] = [asdict(bin) for bin in table]
        if self.slices.names:
            row["slices"] = {
                name: [
                    {"value": self.slices.value(s, one.id), "examples": one.examples, **asdict(one.quality)}
                    for one in by_value(self.slice_ids[there, s], label, score, self.slices.values)
                ]
                for s, name in enumerate(self.slices.names)
            }
        return row


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def evaluate(
    definition: Definition,
    stream: Iterable[tuple[Columns, NDArray[np.float64] | None]],
    batch_size: int,
    slices: Slices | None = None,
) -> Evaluation:
    """Scores every batch before it learns from it, over a whole stream.

    Args:
        definition: What to learn.
        stream: Columns with all sources of the definition and of the slices, each with its examples' true probabilities
            where they are known.
        batch_size: A batch closes with the list that reaches so many examples, and never splits a list.
        slices: By whose values quality is told apart.
    """
    slices = slices or Slices()
    compile_kernels(definition)
    learner = Learner(definition, Shard(definition.tables, definition.seed, True, definition.admission))
    labels, scores, truths, slice_ids = [], [], [], []
    waiting: Batch | None = None
    lists = 0
    seconds = 0.0
    for columns, truth in stream:
        start = time.perf_counter()
        origins = np.arange(lists, lists + columns.sizes.size, dtype=np.uint64)
        lists += columns.sizes.size
        batch = learner.scorer.featurizer.featurize(columns, origins)
        parts = (batch if waiting is None else Batch.join([waiting, batch])).cuts(batch_size)
        waiting = parts.pop() if len(parts[-1]) < batch_size else None
        for part in parts:
            scores.append(learner.score_and_learn(part))
            learner.shard.sweep(4 * len(part))
        seconds += time.perf_counter() - start
        labels.append(columns.labels)
        slice_ids.append(slices.ids(columns))
        if truth is not None:
            truths.append(truth)
    if waiting is not None:
        start = time.perf_counter()
        scores.append(learner.score_and_learn(waiting))
        seconds += time.perf_counter() - start
    tasks = len(definition.tasks)
    return Evaluation(
        seconds,
        learner,
        np.concatenate(labels) if labels else np.empty((0, tasks), dtype=np.float32),
        np.concatenate(scores) if scores else np.empty((0, tasks), dtype=np.float64),
        slices,
        np.concatenate(slice_ids) if slice_ids else np.empty((0, len(slices.names)), dtype=np.int64),
        np.concatenate(truths) if truths else None,
    )
