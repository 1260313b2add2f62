"""Scores with the latest parameters, and never makes the event loop wait for a commit or for Redis."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from embedding_store.bootstrap import Snapshot
from embedding_store.cached_shard import Misses, Tally
from embedding_store.shard import Shard
from services.ranker.problems import unavailable
from services.ranker.score import Model, ModelFollower
from trainer.batch import Batch
from trainer.scorer import Scores

_T = TypeVar("_T")

_FETCHERS = 4
_FETCHES = 3
"""Round trips of one request at most: the first for all ids that it names, others for ids that their rows name."""


class FollowedShard(Protocol):
    """What is asked of a replica."""

    lock: threading.Lock
    snapshot: Snapshot | None
    error: str | None
    tally: Tally

    def fetch(self, shard: Shard, misses: Misses) -> bool:
        """Reads rows that are not in memory; says whether to look up again."""

    @property
    def age_ms(self) -> float | None:
        """Time since it was last at the log's end."""

    @property
    def lag_commits(self) -> int:
        """Commits that it is known to be behind."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What scoring gave.

    Attributes:
        scores: Of the candidates.
        commit: Number of the commit that it was scored with.
        misses: Ids that were scored by their cold rows, although the store may have rows of theirs.
    """

    scores: Scores
    commit: int
    misses: Misses


def _score_now(model: Model, batch: Batch) -> tuple[Scores, Misses]:
    return model.scorer.score(batch), model.scorer.shard.take_misses()


class Scoring:
    """The model as the replica has it now. For one event loop.

    Args:
        replica: Whose lock guards the model.
        follower: Keeps the model.
    """

    def __init__(self, replica: FollowedShard, follower: ModelFollower) -> None:
        self._replica = replica
        self._follower = follower
        self._scorers = ThreadPoolExecutor(1, "scorer")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetcher")

    def close(self) -> None:
        """Ends the threads; waits for nobody."""
        self._scorers.shutdown(wait=False, cancel_futures=True)
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    @property
    def model(self) -> Model:
        """The model.

        Raises:
            Problem: 503 before the first bootstrap.
        """
        model = self._follower.model
        if model is None:
            raise unavailable(f"there is no model yet: {self._replica.error or 'the replica is starting'}")
        return model

    @property
    def commit(self) -> int:
        """Number of the commit that scores."""
        return self._follower.commit

    @property
    def age_ms(self) -> int:
        """Time since the replica was last at the log's end."""
        return round(self._replica.age_ms or 0.0)

    async def aside(self, work: Callable[[], _T]) -> _T:
        """Does work that needs no lock off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._scorers, work)

    async def score(self, model: Model, batch: Batch) -> Scored | None:
        """Scores; as long as rows are not in memory, reads them off the event loop and scores again."""
        loop = asyncio.get_running_loop()
        for turn in range(_FETCHES + 1):
            held = await self.held(model, partial(_score_now, model, batch))
            if held is None:
                return None
            (scores, misses), commit = held
            scored = Scored(scores, commit, misses)
            if not misses or turn == _FETCHES:
                break
            if not await loop.run_in_executor(self._fetchers, self._replica.fetch, model.scorer.shard, misses):
                break
        return scored

    async def held(self, model: Model, work: Callable[[], _T]) -> tuple[_T, int] | None:
        """Work on a model that no commit changes meanwhile, and the commit that it has.

        In place when the lock is free; else in a thread, so that the event loop never waits for a commit. None if the
        replica has started anew since the batch was featurized.
        """
        lock = self._replica.lock
        if lock.acquire(blocking=False):
            try:
                return self._do_locked(model, work)
            finally:
                lock.release()
        return await asyncio.get_running_loop().run_in_executor(self._scorers, self._do_waiting, model, work)

    def _do_waiting(self, model: Model, work: Callable[[], _T]) -> tuple[_T, int] | None:
        with self._replica.lock:
            return self._do_locked(model, work)

    def _do_locked(self, model: Model, work: Callable[[], _T]) -> tuple[_T, int] | None:
        return None if self._follower.model is not model else (work(), self._follower.commit)
