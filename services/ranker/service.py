"""What the endpoints do, without HTTP."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from embedding_store.bootstrap import Snapshot
from embedding_store.cached_shard import Misses, Tally
from embedding_store.errors import StoreError
from embedding_store.shard import Shard
from services.ranker.described import describe
from services.ranker.impressions import ImpressionLog, impression_of
from services.ranker.intake import Checker, item_place, take_events
from services.ranker.metrics import RankerMetrics
from services.ranker.problems import bad_field, unavailable
from services.ranker.schema import EVENT_LISTS, ExplainQuery, RankQuery
from services.ranker.score import Model, ModelFollower, best, ranked
from services.ranker.sink import Sink
from services.ranker.stored_features import Kind, StoredFeatures
from trainer.batch import Batch
from trainer.explain import ask
from trainer.scorer import Scores
from trainer.settings import TopicSettings
from trainer.values import BadValue

_T = TypeVar("_T")

NAME = "default"
_SENDERS = 4
_READERS = 4
_MAX_SENDING = 64
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
class Limits:
    """Bounds of the service.

    Attributes:
        ready_lag_ms: An older replica is not ready.
        max_ahead_ms: How far an event's ``ts`` may lie in the future.
    """

    ready_lag_ms: int
    max_ahead_ms: int


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


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class RankerService:
    """Ranks, takes events, tells its state. For one event loop.

    Args:
        replica: Whose lock guards the model.
        follower: Keeps the model.
        metrics: Of the process.
        sink: Where events go.
        topics: Names of the topics.
        impressions: Where answers are logged.
        features: What is stored of visitors and items.
        limits: Bounds.
        now_ms: Since the epoch.
    """

    def __init__(
        self,
        replica: FollowedShard,
        follower: ModelFollower,
        metrics: RankerMetrics,
        sink: Sink,
        topics: TopicSettings,
        impressions: ImpressionLog,
        features: StoredFeatures,
        limits: Limits,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._replica = replica
        self._follower = follower
        self._metrics = metrics
        self._sink = sink
        self._topics = {name: str(getattr(topics, name)) for name in EVENT_LISTS}
        self._impressions = impressions
        self._features = features
        self._limits = limits
        self._now_ms = now_ms
        self._scorers = ThreadPoolExecutor(1, "scorer")
        self._senders = ThreadPoolExecutor(_SENDERS, "sender")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetcher")
        self._readers = ThreadPoolExecutor(_READERS, "reader")
        self._sending = 0
        metrics.watch(replica, lambda: None if follower.model is None else follower.model.scorer.shard)

    def close(self) -> None:
        """Ends the threads; waits for nobody."""
        self._scorers.shutdown(wait=False, cancel_futures=True)
        self._senders.shutdown(wait=False, cancel_futures=True)
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    # Ranking

    async def rank(self, query: RankQuery) -> dict[str, Any]:
        """The answer of ``POST /v1/rank``.

        Raises:
            Problem: 422 for a value that its feature cannot take, 503 before the first bootstrap.
        """
        now_ms = self._now_ms()
        user, items = await self._completed(query.user, query.items)
        while True:
            model = self._model()
            if query.std and not model.definition.gaussian:
                raise bad_field("std", 'needs Gaussian weights, and this model has none; set model.wide = "gaussian"')
            try:
                batch = model.featurize(now_ms, user, query.context, items)
            except BadValue as error:
                raise bad_field(item_place(error), error.what) from None
            scored = await self._score(model, batch)
            if scored is not None:
                break
        probabilities = scored.scores.probabilities
        scores = model.scorer.ranking.scores(probabilities)
        order = best(scores, query.k)
        request_id = uuid.uuid4().hex
        if query.log_impression:
            served = [items[place] for place in order]
            self._impressions.log(impression_of(request_id, now_ms, user, query.context, served))
        return {
            "request_id": request_id,
            "model": {"name": NAME, "commit": scored.commit, "age_ms": self._age_ms()},
            "items": ranked(
                model, items, order, scores, probabilities, scored.scores.deviations if query.std else None
            ),
        }

    async def _score(self, model: Model, batch: Batch) -> Scored | None:
        """Scores; as long as rows are not in memory, reads them off the event loop and scores again."""
        loop = asyncio.get_running_loop()
        for turn in range(_FETCHES + 1):
            held = await self._held(model, partial(_score_now, model, batch))
            if held is None:
                return None
            (scores, misses), commit = held
            scored = Scored(scores, commit, misses)
            if not misses or turn == _FETCHES:
                break
            if not await loop.run_in_executor(self._fetchers, self._replica.fetch, model.scorer.shard, misses):
                break
        return scored

    async def explain(self, query: ExplainQuery) -> dict[str, Any]:
        """The answer of ``POST /v1/explain``.

        Raises:
            Problem: As :meth:`rank`.
        """
        now_ms = self._now_ms()
        user, items = await self._completed(query.user, [query.item])
        while True:
            model = self._model()
            try:
                batch = model.featurize(now_ms, user, query.context, items)
            except BadValue as error:
                raise bad_field(error.source, error.what) from None
            await self._score(model, batch)  # so that what it takes is in memory
            held = await self._held(model, partial(ask, model.scorer, batch, model.score_task))
            if held is not None:
                break
        question, commit = held
        found = await asyncio.get_running_loop().run_in_executor(self._scorers, question.answer)
        return {
            "model": {"name": NAME, "commit": commit, "age_ms": self._age_ms()},
            "task": model.scorer.tasks[model.score_task],
            "bias": found.bias,
            "fields": found.fields,
            "logit": found.logit,
        }

    async def _completed(
        self, user: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
        """A visitor and items with what is stored of them."""
        features = self._features
        if unknown := features.unknown(user, items):
            await asyncio.get_running_loop().run_in_executor(self._readers, features.read, unknown)
        return features.complete("users", user), features.complete_items(items)

    async def _held(self, model: Model, work: Callable[[], _T]) -> tuple[_T, int] | None:
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

    def _model(self) -> Model:
        model = self._follower.model
        if model is None:
            raise unavailable(f"there is no model yet: {self._replica.error or 'the replica is starting'}")
        return model

    def _age_ms(self) -> int:
        return round(self._replica.age_ms or 0.0)

    # Events

    async def take(self, lists: dict[str, list[Any]]) -> dict[str, Any]:
        """The answer of ``POST /v1/events``, once Kafka has acknowledged.

        Raises:
            Problem: As :func:`take_events`; 503 also before the first bootstrap and under overload.
        """
        model = self._model()
        if self._sending >= _MAX_SENDING:
            raise unavailable("too many events wait for Kafka")
        checker = Checker(model.scorer.featurizer, model.scorer.tasks, self._limits.max_ahead_ms)
        loop = asyncio.get_running_loop()
        self._sending += 1
        try:
            accepted, rejected = await loop.run_in_executor(
                self._senders,
                take_events,
                lists,
                checker,
                self._features.complete_lists,
                self._sink,
                self._topics,
                self._now_ms(),
            )
        finally:
            self._sending -= 1
        self._metrics.events.labels("accepted").inc(accepted)
        self._metrics.events.labels("rejected").inc(len(rejected))
        return {"accepted": accepted, "rejected": rejected}

    async def put_features(self, kind: Kind, identity: str, features: dict[str, Any]) -> None:
        """What ``PUT /v1/users/{id}`` and ``PUT /v1/items/{id}`` do.

        Raises:
            Problem: 413, 422 or 507 for what cannot be stored; 503 before the first bootstrap, or without Redis.
        """
        model = self._model()
        part = {**features, "id": identity}
        user, item = (part, {}) if kind == "users" else ({}, part)
        try:
            model.featurize(self._now_ms(), user, {}, [item])
        except BadValue as error:
            raise bad_field(error.source.partition(".")[2], error.what) from None
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._senders, self._features.put, kind, identity, features)
        except StoreError as error:
            raise unavailable(f"the features were not stored: {error}") from error

    # State

    def describe(self) -> dict[str, Any]:
        """The answer of ``GET /v1/model``.

        Raises:
            Problem: 503 before the first bootstrap.
        """
        snapshot = self._replica.snapshot
        positions = snapshot.positions if snapshot is not None else {}
        return {"name": NAME, **describe(self._model(), self._follower.commit, self._age_ms(), positions)}

    def check_ready(self) -> dict[str, Any]:
        """The answer of ``GET /readyz``.

        Raises:
            Problem: 503 with the reason.
        """
        self._model()
        if self._replica.error is not None:
            raise unavailable(self._replica.error)
        age_ms = self._age_ms()
        if age_ms >= self._limits.ready_lag_ms:
            raise unavailable(
                f"the replica is {age_ms} ms behind the log (ranker.ready_lag is {self._limits.ready_lag_ms} ms)"
            )
        return {"status": "ready", "commit": self._follower.commit, "age_ms": age_ms}
