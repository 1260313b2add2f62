"""A ranker in memory: a learner that learns at once, a replica without Redis, a sink that keeps what it is given."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import httpx
import orjson
import redis

from embedding_store.bootstrap import Snapshot
from embedding_store.cached_shard import Misses, Tally
from embedding_store.commit import Commit, CommitId, decode, encode
from embedding_store.shard import Shard
from services.ranker.app import build_app
from services.ranker.impressions import ImpressionLog
from services.ranker.metrics import RankerMetrics
from services.ranker.score import ModelFollower
from services.ranker.service import Limits, RankerService
from services.ranker.sink import Message, SinkUnavailable
from services.ranker.stored_features import FeatureLimits, StoredFeatures
from services.settings import Settings
from trainer.definition import Definition
from trainer.example import examples_to_columns
from trainer.learner import Learner
from trainer.settings import TopicSettings

NOW_MS = 1_700_000_000_000
MAX_BODY_BYTES = 1 << 16
FEATURES = [
    {"name": "user", "kind": "id", "source": "user.id"},
    {"name": "item", "kind": "id", "source": "item.id"},
    {"name": "genre", "kind": "ids", "source": "item.genre"},
    {"name": "device", "kind": "id", "source": "context.device"},
    {"name": "hour", "kind": "id", "source": "time.hour"},
    {"name": "seconds", "kind": "number", "source": "item.seconds", "transform": "log"},
    {"name": "both", "kind": "cross", "inputs": ["user", "item"]},
]


def define(tasks: Sequence[str] = ("click", "like"), **model: Any) -> Definition:
    """A small definition with a feature of every kind."""
    return Settings(features=FEATURES, tasks=[{"name": name} for name in tasks], model=model).definition()


def example(user: Any, *items: tuple[Any, float], ts: int = NOW_MS, **more: Any) -> dict[str, Any]:
    """A labelled list: pairs of an item's id and its click."""
    labelled = [{"id": i, "labels": {"click": y, "like": 1 - y}, **more} for i, y in items]
    return {"ts": ts, "user": {"id": user}, "context": {}, "items": labelled}


class Trainer:
    """A learner whose commits are kept, encoded and decoded as over the wire."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.learner = Learner(definition, Shard(definition.tables, definition.seed))
        self.id = CommitId(0, 1)

    def learn(self, examples: Sequence[dict[str, Any]], appended: Sequence[tuple[int, int]] = ()) -> Commit:
        """Learns one batch and gives its commit."""
        scorer = self.learner.scorer
        columns = examples_to_columns(examples, scorer.featurizer.sources, scorer.tasks)
        self.learner.score_and_learn(scorer.featurizer.featurize(columns))
        blocks, gone = self.learner.shard.take_changes()
        self.id = CommitId(self.id.seq + 1, 1)
        commit = Commit(
            clock_ms=self.learner.shard.clock_ms,
            definition=self.definition.to_json(),
            positions={"dolmen.examples": {"topic_id": None, "offsets": {"0": self.id.seq}}},
            blocks=blocks,
            gone=gone,
            parts={**self.learner.parts(), **self.learner.shard.parts()},
            appended=tuple(appended),
            examples=len(columns.labels),
        )
        return decode(encode(commit))

    def snapshot(self) -> Snapshot:
        """An empty store as its first reader finds it."""
        shard = Shard(self.definition.tables, self.definition.seed, learning=False)
        return Snapshot(shard, self.id, self.definition.to_json(), parts=self.learner.parts())


class FakeReplica:
    """A replica that is told what to apply."""

    def __init__(self, follower: ModelFollower) -> None:
        self.lock = threading.Lock()
        self.snapshot: Snapshot | None = None
        self.error: str | None = "the store is empty: nothing was committed yet"
        self.age_ms: float | None = None
        self.lag_commits = 0
        self.tally = Tally()
        self._follower = follower

    def fetch(self, shard: Shard, misses: Misses) -> bool:
        return False

    def restart(self, snapshot: Snapshot) -> None:
        with self.lock:
            self._follower.restarted(snapshot)
            self.snapshot = snapshot
        self.age_ms, self.error = 3.4, None

    def apply(self, commit_id: CommitId, commit: Commit) -> None:
        assert self.snapshot is not None
        with self.lock:
            self.snapshot.apply(commit_id, commit)
            self._follower.applied(commit_id, commit)


class ListSink:
    """A sink in memory. Values of more than `limit` bytes are refused; with `down`, nothing is acknowledged."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.messages: list[Message] = []
        self.limit = limit
        self.down = False

    def send(self, messages: Sequence[Message]) -> list[str | None]:
        if self.down:
            raise SinkUnavailable("Kafka at nowhere:1 did not answer", [False] * len(messages))
        self.messages += [m for m in messages if len(m.value) <= self.limit]
        return [None if len(m.value) <= self.limit else "too large" for m in messages]

    def close(self) -> None:
        pass


class FakeHashes:
    """The few commands on hashes that stored features need, over a dict. With `down`, no answer comes."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.down = False
        self.round_trips = 0
        self._waiting: list[Any] = []

    def pipeline(self, transaction: bool) -> "FakeHashes":
        assert not transaction
        return self

    def execute(self) -> list[Any]:
        waiting, self._waiting = self._waiting, []
        self._talk()
        return [command() for command in waiting]

    def hset(self, name: str, field: bytes, value: bytes) -> None:
        self._talk()
        self.hashes.setdefault(name, {})[field] = value

    def hdel(self, name: str, field: bytes) -> None:
        self._talk()
        self.hashes.get(name, {}).pop(field, None)

    def hexists(self, name: str, field: bytes) -> "FakeHashes":
        return self._later(lambda: field in self.hashes.get(name, {}))

    def hlen(self, name: str) -> "FakeHashes":
        return self._later(lambda: len(self.hashes.get(name, {})))

    def hmget(self, name: str, fields: list[bytes]) -> "FakeHashes":
        return self._later(lambda: [self.hashes.get(name, {}).get(field) for field in fields])

    def _later(self, command: Callable[[], Any]) -> "FakeHashes":
        self._waiting.append(command)
        return self

    def _talk(self) -> None:
        self.round_trips += 1
        if self.down:
            raise redis.ConnectionError("refused")


class World:
    """The whole ranker without a process, a socket or a server."""

    def __init__(self, definition: Definition | None = None, bootstrapped: bool = True) -> None:
        self.trainer = Trainer(definition or define())
        self.metrics = RankerMetrics()
        self.follower = ModelFollower(self.metrics, clock=lambda: NOW_MS / 1000)
        self.replica = FakeReplica(self.follower)
        self.sink = ListSink()
        self.redis = FakeHashes()
        self.now_s = 100.0
        self.impressions = ImpressionLog(self.sink, "dolmen.impressions", self.metrics, most=3, most_bytes=2000)
        self.service = RankerService(
            self.replica,
            self.follower,
            self.metrics,
            self.sink,
            TopicSettings(),
            self.impressions,
            StoredFeatures(self.redis, "p", FeatureLimits(one_bytes=200, count=32), self.metrics, lambda: self.now_s),
            Limits(5_000, 3_600_000),
            lambda: NOW_MS,
        )
        self.app = build_app(self.service, self.metrics, MAX_BODY_BYTES)
        if bootstrapped:
            self.replica.restart(self.trainer.snapshot())

    def learn(self, *examples: dict[str, Any], appended: Sequence[tuple[int, int]] = ()) -> None:
        commit = self.trainer.learn(examples, appended)
        self.replica.apply(self.trainer.id, commit)

    def run(self, talk: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        """Runs a conversation with the app."""

        async def main() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
                return await talk(client)

        return asyncio.run(main())

    def put(self, path: str, body: Any) -> httpx.Response:
        return self.run(lambda client: client.put(path, json=body))

    def get(self, path: str) -> httpx.Response:
        return self.run(lambda client: client.get(path))

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"content-type": "application/json", **more.pop("headers", {})}
        return self.run(lambda client: client.post(path, content=content, headers=headers, **more))

    def rank(self, user: dict[str, Any], candidates: list[Any], **more: Any) -> dict[str, Any]:
        answer = self.post("/v1/rank", {"user": user, "candidates": candidates, **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found
