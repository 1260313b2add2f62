"""What scores in the ranker: the trainer's own featurizer and module, over the replica's rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from embedding_store.bootstrap import MakeShard, Schema, Snapshot, whole
from embedding_store.codec import COLD, VERSION, Block, entry_dtype
from embedding_store.commit import Commit, CommitId
from embedding_store.errors import BadBytes
from embedding_store.plan import Known
from services.ranker.metrics import RankerMetrics
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.example import request_to_columns
from trainer.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Model:
    """One definition over one shard. Everything but the definition changes with each commit."""

    definition: Definition
    scorer: Scorer

    @property
    def score_task(self) -> int:
        """The task whose probability is the ranking score; of a formula the first in it."""
        return self.scorer.ranking.tasks[0]

    def featurize(
        self, ts: int, user: Mapping[str, Any], context: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> Batch:
        """The batch of one request. Reads nothing that a commit changes.

        Raises:
            BadValue: At the first value that its feature cannot take.
        """
        featurizer = self.scorer.featurizer
        return featurizer.featurize(request_to_columns(ts, user, context, items, featurizer.sources))


class ModelFollower:
    """Keeps the model at the replica's commit. Both methods are called with the replica's lock held.

    Args:
        metrics: Told of freshness and commits.
        clock: Seconds since the epoch.

    Attributes:
        model: None before the first bootstrap; another one after each further.
        commit: Number of the commit that it scores with.
    """

    def __init__(self, metrics: RankerMetrics, clock: Callable[[], float] = time.time) -> None:
        self.model: Model | None = None
        self.commit = 0
        self._metrics = metrics
        self._clock = clock

    def restarted(self, snapshot: Snapshot) -> None:
        """Builds the model that the snapshot's commit defines.

        Raises:
            BadBytes: If this version cannot read the definition.
        """
        try:
            definition = Definition.from_json(snapshot.definition)
        except ValidationError as error:
            raise BadBytes(f"the store's definition cannot be read by this version: {error}") from error
        model = Model(definition, Scorer(definition, snapshot.shard))
        _load(model.scorer, snapshot.parts)
        model.scorer.probabilities(model.featurize(0, {}, {}, [{}, {}]))
        self.model = model
        self._metrics.bootstraps.inc()
        self._at(snapshot.id)

    def applied(self, commit_id: CommitId, commit: Commit) -> None:
        """Takes one more commit's dense weights, and says how fresh they are."""
        assert self.model is not None  # noqa: S101 - a replica restarts before it applies
        _load(self.model.scorer, commit.parts)
        self._at(commit_id)
        self._metrics.examples.inc(commit.examples)
        if commit.appended:
            now_ms = self._clock() * 1000
            ages_s = [max(0.0, now_ms - time_ms) / 1000 for time_ms, _ in commit.appended]
            self._metrics.freshness.observe(ages_s, [count for _, count in commit.appended])

    def _at(self, commit_id: CommitId) -> None:
        self.commit = commit_id.seq
        self._metrics.commit.set(commit_id.seq)


def _load(scorer: Scorer, parts: Mapping[str, bytes]) -> None:
    if "dense" in parts:
        scorer.load_dense(parts["dense"])
    if "numbers" in parts:
        scorer.load_numbers(parts["numbers"])


def best(scores: NDArray[np.float64], k: int) -> list[int]:
    """Places of the k highest scores, float64[B], the highest first; equal ones keep their order.

    >>> best(np.array([0.2, 0.5, 0.2, 0.9]), 3)
    [3, 1, 0]
    """
    order: list[int] = np.argsort(-scores, kind="stable")[:k].tolist()
    return order


def ranked(
    model: Model,
    items: Sequence[Mapping[str, Any]],
    order: list[int],
    scores: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    deviations: NDArray[np.float64] | None,
) -> list[dict[str, Any]]:
    """The items of an answer.

    Args:
        model: What scored.
        items: B candidates.
        order: Places of those wanted, the best first.
        scores: The ranking scores, float64[B].
        probabilities: float64[B, T].
        deviations: Standard deviations of the probabilities, float64[B, T], where those of the scores are wanted.
    """
    rows, score, tasks = probabilities.tolist(), scores.tolist(), model.scorer.tasks
    answer = [
        {"id": items[i]["id"], "score": score[i], "scores": dict(zip(tasks, rows[i], strict=True))} for i in order
    ]
    if deviations is not None:
        spread = model.scorer.ranking.deviations(probabilities, deviations)
        for item, deviation in zip(answer, spread[order].tolist(), strict=True):
            item["std"] = deviation
    return answer


def compile_kernels(definition: Definition, make: MakeShard | None = None) -> None:
    """Compiles what applying a commit and scoring need; a later start finds it in Numba's cache.

    Args:
        definition: What will score.
        make: Shards as the replica makes them.
    """
    schema = Schema(definition.tables, definition.seed)
    shard = (make or whole(False))(schema, b"")
    for table in definition.tables:
        entries = np.zeros(2, dtype=entry_dtype(table.dim, table.state_width(table.dim), table.lead))
        entries["version"] = VERSION
        entries["flags"] = COLD, 0
        entries["layout"] = shard.layouts.known.index(Known(table.name, tuple(range(table.dim))))
        shard.apply(Block(table.name, entries))
    shard.index.grow()
    model = Model(definition, Scorer(definition, shard))
    model.scorer.probabilities(model.featurize(0, {}, {}, [{}, {}]))
    shard.remove(0, np.zeros(1, dtype=np.int64))
