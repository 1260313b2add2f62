"""Progressive validation of a whole stream in one process: no Kafka, no Redis."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_store.shard import Shard
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.example import Columns
from trainer.learner import Learner
from trainer.validation import auc, quality
from trainer.warmup import compile_kernels


@dataclass(slots=True)
class Evaluation:
    """What a pass over a stream gave.

    Attributes:
        seconds: First batch to last, compilation excluded.
        learner: The model after the pass.
        labels: float32[n, T], NaN where absent.
        scores: float64[n, T], given before the label was learned.
        truths: float64[n], the true probability of the first task, where it is known.
    """

    seconds: float
    learner: Learner
    labels: NDArray[np.float32]
    scores: NDArray[np.float64]
    truths: NDArray[np.float64] | None = field(default=None)

    def report(self, tail: int | None = None) -> dict[str, Any]:
        """The figures as one JSON object.

        Args:
            tail: Adds ``auc_tail`` over the last so many examples, and ``auc_tail_truth`` where the truth is known.
        """
        shard, scorer = self.learner.shard, self.learner.scorer
        counts = shard.counts
        tasks: dict[str, dict[str, float | None]] = {}
        for t, task in enumerate(scorer.tasks):
            label, score = self.labels[:, t].astype(np.float64), self.scores[:, t]
            known = ~np.isnan(label)
            whole = quality(label[known], score[known])
            half = slice(label.size // 2, None)
            row = {
                "auc": whole.auc,
                "auc_second_half": auc(label[half][known[half]], score[half][known[half]]),
                "log_loss": whole.log_loss,
                "normalized_entropy": whole.normalized_entropy,
                "calibration": whole.calibration,
            }
            if tail:
                last = slice(-tail, None)
                row["auc_tail"] = auc(label[last][known[last]], score[last][known[last]])
                if t == 0 and self.truths is not None:
                    row["auc_tail_truth"] = auc(label[last][known[last]], self.truths[last][known[last]])
            tasks[task] = {name: None if np.isnan(value) else value for name, value in row.items()}
        examples = int(self.labels.shape[0])
        return {
            "examples": examples,
            "seconds": self.seconds,
            "examples_per_second": examples / self.seconds if self.seconds else 0.0,
            "parameters": {
                "embedding": int(
                    sum(n * (1 + t.dim) for n, t in zip((counts + 1).tolist(), shard.tables, strict=True))
                ),
                "dense": int(scorer.weights.size),
            },
            "rows": int(counts.sum()),
            "bytes": shard.nbytes,
            "tasks": tasks,
        }


def evaluate(
    definition: Definition, stream: Iterable[tuple[Columns, NDArray[np.float64] | None]], batch_size: int
) -> Evaluation:
    """Scores every batch before it learns from it, over a whole stream.

    Args:
        definition: What to learn.
        stream: Columns, each with its examples' true probabilities where they are known.
        batch_size: A batch closes with the list that reaches so many examples, and never splits a list.
    """
    compile_kernels(definition)
    learner = Learner(definition, Shard(definition.tables, definition.seed, True, definition.admission))
    labels, scores, truths = [], [], []
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
        np.concatenate(truths) if truths else None,
    )
