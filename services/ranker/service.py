"""What the endpoints do, without HTTP."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from embedding_store.errors import StoreError
from services.ranker.described import describe
from services.ranker.impressions import ImpressionLog, impression_of
from services.ranker.intake import Checker, item_place, take_events
from services.ranker.metrics import RankerMetrics
from services.ranker.problems import bad_field, unavailable
from services.ranker.schema import EVENT_LISTS, ExplainQuery, RankQuery
from services.ranker.score import ModelFollower, best, ranked
from services.ranker.scoring import FollowedShard, Scoring
from services.ranker.sink import Sink
from services.ranker.stored_features import Kind, StoredFeatures
from trainer.explain import ask
from trainer.settings import TopicSettings
from trainer.values import BadValue

NAME = "default"
_SENDERS = 4
_READERS = 4
_MAX_SENDING = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the service.

    Attributes:
        ready_lag_ms: An older replica is not ready.
        max_ahead_ms: How far an event's ``ts`` may lie in the future.
    """

    ready_lag_ms: int
    max_ahead_ms: int


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
        self._scoring = Scoring(replica, follower)
        self._metrics = metrics
        self._sink = sink
        self._topics = {name: str(getattr(topics, name)) for name in EVENT_LISTS}
        self._impressions = impressions
        self._features = features
        self._limits = limits
        self._now_ms = now_ms
        self._senders = ThreadPoolExecutor(_SENDERS, "sender")
        self._readers = ThreadPoolExecutor(_READERS, "reader")
        self._sending = 0
        metrics.watch(replica, lambda: None if follower.model is None else follower.model.scorer.shard)

    def close(self) -> None:
        """Ends the threads; waits for nobody."""
        self._scoring.close()
        self._senders.shutdown(wait=False, cancel_futures=True)
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
            model = self._scoring.model
            if query.std and not model.definition.gaussian:
                raise bad_field("std", 'needs Gaussian weights, and this model has none; set model.wide = "gaussian"')
            try:
                batch = model.featurize(now_ms, user, query.context, items)
            except BadValue as error:
                raise bad_field(item_place(error), error.what) from None
            scored = await self._scoring.score(model, batch)
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
            "model": {"name": NAME, "commit": scored.commit, "age_ms": self._scoring.age_ms},
            "items": ranked(
                model, items, order, scores, probabilities, scored.scores.deviations if query.std else None
            ),
        }

    async def explain(self, query: ExplainQuery) -> dict[str, Any]:
        """The answer of ``POST /v1/explain``.

        Raises:
            Problem: As :meth:`rank`.
        """
        now_ms = self._now_ms()
        user, items = await self._completed(query.user, [query.item])
        while True:
            model = self._scoring.model
            try:
                batch = model.featurize(now_ms, user, query.context, items)
            except BadValue as error:
                raise bad_field(error.source, error.what) from None
            await self._scoring.score(model, batch)  # so that what it takes is in memory
            held = await self._scoring.held(model, partial(ask, model.scorer, batch, model.score_task))
            if held is not None:
                break
        question, commit = held
        found = await self._scoring.aside(question.answer)
        return {
            "model": {"name": NAME, "commit": commit, "age_ms": self._scoring.age_ms},
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

    # Events

    async def take(self, lists: dict[str, list[Any]]) -> dict[str, Any]:
        """The answer of ``POST /v1/events``, once Kafka has acknowledged.

        Raises:
            Problem: As :func:`take_events`; 503 also before the first bootstrap and under overload.
        """
        model = self._scoring.model
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
        model = self._scoring.model
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
        return {"name": NAME, **describe(self._scoring.model, self._scoring.commit, self._scoring.age_ms, positions)}

    def check_ready(self) -> dict[str, Any]:
        """The answer of ``GET /readyz``.

        Raises:
            Problem: 503 with the reason.
        """
        _ = self._scoring.model
        if self._replica.error is not None:
            raise unavailable(self._replica.error)
        age_ms = self._scoring.age_ms
        if age_ms >= self._limits.ready_lag_ms:
            raise unavailable(
                f"the replica is {age_ms} ms behind the log (ranker.ready_lag is {self._limits.ready_lag_ms} ms)"
            )
        return {"status": "ready", "commit": self._scoring.commit, "age_ms": age_ms}
