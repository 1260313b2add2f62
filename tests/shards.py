"""Small shards, batches and stores for the tests of the store, and the dump that equal stores share."""

import io
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import orjson
import redis
from numpy.typing import NDArray

from embedding_store.bootstrap import Snapshot, bootstrap
from embedding_store.commit import ROOT, Commit, CommitId, encode
from embedding_store.dump import write_dump
from embedding_store.keys import Keys
from embedding_store.layout import Size
from embedding_store.log import CommitLog, epoch_number
from embedding_store.lookup import Fields, Occurrences
from embedding_store.packed import PackedReader, read_foot
from embedding_store.redis_client import Client, connect
from embedding_store.rows import read_sizes
from embedding_store.settings import StoreSettings, TableSettings
from embedding_store.shard import Shard
from embedding_store.stored import read_stored

Cell = int | None | list[int | None]
"""The ids of one field of one example; None is a missing value."""

WIDE = TableSettings(name="wide", dim=6, expire_after="1s")
NARROW = TableSettings(name="narrow", dim=2)
TABLES = (WIDE, NARROW)
SEED = 7


def occurrences(examples: Sequence[Sequence[Cell]]) -> Occurrences:
    """Examples, each a cell a field, as the store takes them."""
    cells = [cell if isinstance(cell, list) else [cell] for example in examples for cell in example]
    flat = [value for cell in cells for value in cell]
    return Occurrences(
        np.array([0 if value is None else value for value in flat], dtype=np.int64),
        np.array([value is None for value in flat], dtype=np.bool_),
        np.cumsum([0, *(len(cell) for cell in cells)], dtype=np.int64),
    )


def fields_of(tables: Any, means: bool | Sequence[bool] = True) -> Fields:
    """Fields of some tables, all counted."""
    numbers = np.array(tables, dtype=np.int64)
    averaged = np.full(numbers.size, means) if isinstance(means, bool) else np.array(means)
    return Fields(numbers, averaged, np.ones(numbers.size, dtype=np.bool_))


def see(
    shard: Shard,
    examples: Sequence[Sequence[Cell]],
    gradients: Any = None,
    times_ms: int | Sequence[int] = 1000,
    tables: Sequence[int] | None = None,
    means: bool | Sequence[bool] = True,
    first_origin: int = 0,
) -> NDArray[np.float32]:
    """Scores and learns one batch; gives what scored it, float32[B, F, 1 + K]. Gradients are zero unless given."""
    batch = occurrences(examples)
    count, fields = len(examples), len(examples[0])
    some = fields_of(np.arange(fields) if tables is None else tables, means)
    rows = shard.lookup(batch, some)
    pooled = shard.gather(rows, batch, some)
    given = np.zeros(pooled.shape) if gradients is None else np.broadcast_to(gradients, pooled.shape)
    times = np.broadcast_to(np.array(times_ms, dtype=np.int64), (count,)).copy()
    origins = np.arange(count, dtype=np.uint64) + np.uint64(first_origin)
    sums = np.ascontiguousarray(given, dtype=np.float32).copy()
    shard.step(batch, rows, shard.sight(batch, rows, some, times, origins), sums, some)
    shard.pass_on(times)
    return pooled


def pooled(
    shard: Shard, examples: Sequence[Sequence[Cell]], tables: Sequence[int] | None = None, mean: bool = True
) -> NDArray[np.float32]:
    """What scores a batch: float32[B, F, 1 + K]. Changes nothing."""
    batch = occurrences(examples)
    some = fields_of(np.arange(len(examples[0])) if tables is None else tables, mean)
    return shard.gather(shard.lookup(batch, some), batch, some)


def entries_of(shard: Shard, rows: NDArray[np.int64]) -> NDArray[np.void]:
    """Some rows of one table and layout as the codec has them."""
    (block,) = shard.blocks(rows)
    return block.entries


def rows_of(shard: Shard, table: int) -> NDArray[np.int64]:
    """Every row of a table that takes memory, expired or not, the cold row not among them."""
    headers = shard.rows.headers[: shard.index.rows_end]
    rows = np.flatnonzero((headers["at"] >= 0) & (headers["table"] == table))
    return rows[rows >= len(shard.tables)]


def ids_of(shard: Shard, table: int) -> NDArray[np.int64]:
    """The ids of those rows."""
    return shard.rows.headers["id"][rows_of(shard, table)].astype(np.int64)


def definition(tables: Sequence[TableSettings] = TABLES, seed: int = SEED, **more: Any) -> bytes:
    """What the store reads of a definition."""
    return orjson.dumps({"tables": [table.model_dump(mode="json") for table in tables], "seed": seed, **more})


def dump_of(snapshot: Snapshot) -> bytes:
    """The canonical bytes of a shard."""
    file = io.BytesIO()
    write_dump(file, snapshot)
    return file.getvalue()


def settings_for(url: str, **changes: Any) -> StoreSettings:
    """Settings of a store of its own on a shared server."""
    return StoreSettings(url=url, prefix=f"t-{uuid.uuid4().hex[:12]}", **changes)


@cache
def client_of(url: str) -> Client:
    """One client a server for the whole run: what stays open is never collected."""
    return connect(StoreSettings(url=url))


def log_of(settings: StoreSettings) -> CommitLog:
    """The log of a shard."""
    assert settings.url is not None
    return CommitLog(client_of(settings.url), Keys(settings.prefix))


def log_for(url: str) -> CommitLog:
    """The log of a new and empty shard on a shared server."""
    return log_of(settings_for(url))


class Writer:
    """A shard's owner without a thread: learns, commits at its own head, and knows what it has committed."""

    def __init__(self, log: CommitLog, tables: Sequence[TableSettings] = TABLES) -> None:
        self.log = log
        self.definition = definition(tables)
        self.shard = Shard(tables, SEED)
        self.epoch = log.raise_epoch()
        self.head = ROOT
        self.offset = 0
        self.parts: dict[str, bytes] = {}
        self.committed = b""

    def snapshot(self) -> Snapshot:
        """What the shard is now."""
        return Snapshot(self.shard, self.head, self.definition, self.positions(), dict(self.parts))

    def positions(self) -> dict[str, Any]:
        """Offsets as a commit carries them."""
        return {"events": {"topic_id": "some", "offsets": {"0": self.offset}}}

    def commit(self, dropped: tuple[str, ...] = ()) -> tuple[CommitId, CommitId, bytes]:
        """Appends what changed; gives predecessor, id and bytes."""
        self.offset += 1
        self.parts["step"] = self.offset.to_bytes(8, "little")
        blocks, gone = self.shard.take_changes()
        self.parts.update(self.shard.parts())
        data = encode(
            Commit(self.shard.clock_ms, self.definition, self.positions(), blocks, gone, dict(self.parts), dropped)
        )
        new = CommitId(self.head.seq + 1, epoch_number(self.epoch))
        prev, self.head = self.head, new
        self.log.append(self.epoch, prev, new, data)
        self.committed = dump_of(self.snapshot())
        return prev, new, data


def stored(log: CommitLog) -> bytes:
    """The dump of what Redis holds, which is the same whether the rows go through memory or through a file."""
    snapshot = bootstrap(log, learning=True)
    assert snapshot is not None
    dump = dump_of(snapshot)
    with read_stored(log) as streamed:
        assert streamed is not None
        assert dump_of(streamed) == dump
    return dump


def head_of(dump: bytes) -> dict[str, Any]:
    """The first line of a dump."""
    return PackedReader(io.BytesIO(dump)).line()


def foot_of(dump: bytes) -> dict[str, Any]:
    """What stands at the end of a dump."""
    return read_foot(io.BytesIO(dump))


class Crash(redis.ConnectionError):
    """The client's connection broke."""


class Flaky(redis.Redis):
    """A client whose connection breaks at one command and stays broken.

    Attributes:
        left: Commands until it breaks; None: never.
        late: Whether the breaking command still takes effect, so that only its answer is lost.
        once: Whether it works again afterwards.
    """

    left: int | None = None
    late = False
    once = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return self._unless_broken(lambda: super(Flaky, self).execute_command(*args, **options))

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipe = super().pipeline(*args, **options)
        execute = pipe.execute
        pipe.execute = lambda *rest: self._unless_broken(lambda: execute(*rest))
        return pipe

    def _unless_broken(self, call: Callable[[], Any]) -> Any:
        if self.left is None:
            return call()
        if self.left > 0:
            self.left -= 1
            return call()
        if self.late:
            call()
        self.late = False
        if self.once:
            self.left = None
        raise Crash("the connection broke")


def flaky_log(log: CommitLog, left: int | None = None, late: bool = False, once: bool = False) -> CommitLog:
    """Another client's view of a log, with a connection that will break."""
    client = Flaky(connection_pool=log.client.connection_pool)
    client.left, client.late, client.once = left, late, once
    return CommitLog(client, log.keys)


def hashes_of(log: CommitLog, table: str) -> list[str]:
    """Every hash that holds rows of a table."""
    hashes = read_sizes(log).get(table, Size()).hashes
    return [key for key in log.keys.all_rows(table, hashes) if log.client.exists(key)]


def keys_of(log: CommitLog) -> list[bytes]:
    """Every key of a store."""
    return sorted(log.client.scan_iter(match=f"{log.keys.prefix}:*", count=10_000))


def wipe(log: CommitLog) -> None:
    """What FLUSHALL would do to one store."""
    if keys := keys_of(log):
        log.client.delete(*keys)


def backup(log: CommitLog) -> dict[bytes, bytes]:
    """A copy of a store, as a snapshot file would hold it."""
    return {key: log.client.dump(key) for key in keys_of(log)}


def go_back(log: CommitLog, copy: dict[bytes, bytes]) -> None:
    """Takes a store back to an earlier copy, as a failover that lost its tail does."""
    pipe = log.client.pipeline(transaction=True)
    pipe.delete(*keys_of(log))
    for key, value in copy.items():
        pipe.restore(key, 0, value)
    pipe.execute()
