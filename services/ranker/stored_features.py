"""Features of visitors and items that are stored once, so that requests may send ids alone.

They lie in Redis, in 16 hashes a kind under the store's prefix: the id as text -> a JSON object. Readers keep what they
have read for a while.
"""

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from embedding_store.errors import StoreError
from embedding_store.redis_client import Client, translated
from services.events import id_text
from services.ranker.metrics import RankerMetrics
from services.ranker.problems import Problem

Kind = Literal["users", "items"]
KINDS: tuple[Kind, ...] = ("users", "items")
Key = tuple[Kind, str]

_HASHES = 16
_AWAY_S = 1.0
_ENTRY_BYTES = 300
_PARSED = 4


@dataclass(frozen=True, slots=True)
class FeatureLimits:
    """Bounds of what is stored.

    Attributes:
        one_bytes: Of one visitor's or item's features, as JSON.
        count: Visitors, and items.
        cache_bytes: Of what one process keeps, about.
        fresh_s: How long it keeps it before it looks again.
    """

    one_bytes: int = 16 << 10
    count: int = 1_000_000
    cache_bytes: int = 64 << 20
    fresh_s: float = 5.0


class _Entry(NamedTuple):
    features: Mapping[str, Any] | None
    until_s: float
    cost: int


class StoredFeatures:
    """Reads and writes stored features. Thread-safe.

    Args:
        client: Of Redis; should give up soon, since rankings wait for it.
        prefix: Of every key.
        limits: Bounds.
        metrics: Counts reads that failed.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        limits: FeatureLimits,
        metrics: RankerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: dict[Key, _Entry] = {}
        self._cost = 0
        self._none_until_s: dict[Kind, float] = {}
        self._away_until_s = 0.0

    def put(self, kind: Kind, identity: str, features: Mapping[str, Any]) -> None:
        """Stores features in the place of earlier ones; an empty object removes them. Blocks.

        Raises:
            Problem: 413 if they are too large, 507 if there are too many already.
            StoreError: If Redis did not take them.
        """
        value = orjson.dumps(features)
        limit = self._limits
        if len(value) > limit.one_bytes:
            detail = f"the features have {len(value)} bytes, more than {limit.one_bytes} (ranker.features_bytes)"
            raise Problem(413, detail)
        place, field = self._place(kind, identity), identity.encode("utf-8", "surrogatepass")
        with translated():
            if not features:
                self._client.hdel(place, field)
            else:
                pipe = self._client.pipeline(transaction=False)
                known, count = pipe.hexists(place, field).hlen(place).execute()
                if not known and count >= -(-limit.count // _HASHES):
                    raise Problem(507, f"there are features of {limit.count} {kind} already (ranker.features_count)")
                self._client.hset(place, field, value)
        with self._lock:
            self._none_until_s.pop(kind, None)
            self._keep((kind, identity), features or None, len(value))

    def unknown(self, user: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> list[Key]:
        """What would have to be read to complete a visitor and items. Does not block."""
        now = self._clock()
        if now < self._away_until_s:
            return []
        wanted = []
        for kind, parts in _parts(user, items):
            if now < self._none_until_s.get(kind, 0.0):
                continue
            for part in parts:
                entry = self._cache.get(key := _key(kind, part))
                if key[1] and (entry is None or entry.until_s <= now):
                    wanted.append(key)
        return wanted

    def read(self, keys: Sequence[Key]) -> None:
        """Reads what :meth:`unknown` gave. Blocks. If Redis does not answer, what was known before stands."""
        try:
            with translated():
                self._read(keys)
        except StoreError:
            self._away_until_s = self._clock() + _AWAY_S
            self._metrics.feature_reads_failed.inc()

    def complete(self, kind: Kind, part: Mapping[str, Any]) -> Mapping[str, Any]:
        """A visitor or an item with what is stored of it; its own features win. Does not block."""
        entry = self._cache.get(_key(kind, part)) if self._cache else None
        return part if entry is None or entry.features is None else {**entry.features, **part}

    def complete_items(self, items: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """What :meth:`complete` gives of each item."""
        return [self.complete("items", item) for item in items] if self._cache else items

    def complete_lists(self, lists: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Impressions or examples with what is stored of their visitors and items. Blocks."""
        unknown = [key for some in lists for key in self.unknown(some["user"], some["items"])]
        if unknown:
            self.read(list(dict.fromkeys(unknown)))
        if not self._cache:
            return list(lists)
        return [
            {
                **some,
                "user": self.complete("users", some["user"]),
                "items": self.complete_items(some["items"]),
            }
            for some in lists
        ]

    def _read(self, keys: Sequence[Key]) -> None:
        kinds = dict.fromkeys(kind for kind, _ in keys)
        pipe = self._client.pipeline(transaction=False)
        for kind in kinds:
            for number in range(_HASHES):
                pipe.hlen(self._name(kind, number))
        counts = pipe.execute()
        now = self._clock()
        for index, kind in enumerate(kinds):
            if not any(counts[index * _HASHES : (index + 1) * _HASHES]):
                self._none_until_s[kind] = now + self._limits.fresh_s
        by_place: dict[str, list[Key]] = {}
        for key in keys:
            if now >= self._none_until_s.get(key[0], 0.0):
                by_place.setdefault(self._place(*key), []).append(key)
            elif key in self._cache:
                with self._lock:
                    self._keep(key, None, 0)
        for place, some in by_place.items():
            pipe.hmget(place, [identity.encode("utf-8", "surrogatepass") for _, identity in some])
        for some, values in zip(by_place.values(), pipe.execute(), strict=True):
            with self._lock:
                for key, value in zip(some, values, strict=True):
                    self._keep(key, None if value is None else orjson.loads(value), len(value or b""))

    def _keep(self, key: Key, features: Mapping[str, Any] | None, size: int) -> None:
        """Under the lock."""
        cost = _ENTRY_BYTES + _PARSED * size
        before = self._cache.pop(key, None)
        self._cost += cost - (before.cost if before else 0)
        self._cache[key] = _Entry(features, self._clock() + self._limits.fresh_s, cost)
        while self._cost > self._limits.cache_bytes:
            self._cost -= self._cache.pop(next(iter(self._cache))).cost

    def _place(self, kind: Kind, identity: str) -> str:
        return self._name(kind, zlib.crc32(identity.encode("utf-8", "surrogatepass")) % _HASHES)

    def _name(self, kind: Kind, number: int) -> str:
        return f"{self._prefix}:features:{kind}:{number:x}"


def _parts(
    user: Mapping[str, Any], items: Iterable[Mapping[str, Any]]
) -> tuple[tuple[Kind, Iterable[Mapping[str, Any]]], ...]:
    return ("users", (user,)), ("items", items)


def _key(kind: Kind, part: Mapping[str, Any]) -> Key:
    """The key of a visitor or an item; without a sound id, an empty one."""
    identity: Any = part.get("id")
    return kind, id_text(identity) if type(identity) in (str, int, bool) else ""
