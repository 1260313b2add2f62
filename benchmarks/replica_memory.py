"""What a replica holds: bytes a row by codec and width, seconds to bootstrap, and latency full against cached.

Payload is what a training row takes as float32: values, state of row-wise Adagrad, id and header of the stored row.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.row_memory import fill
from embedding_store.bootstrap import bootstrap, whole
from embedding_store.cached_shard import CachedShard, Tally
from embedding_store.codec import HEADER_BYTES, ID_BYTES, VERSION, Block, entry_dtype
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.lookup import Fields, Occurrences, plain_fields
from embedding_store.owner import Owner
from embedding_store.redis_client import connect
from embedding_store.replica import Holding, Replica
from embedding_store.rows import read_sizes
from embedding_store.serving import Codec
from embedding_store.settings import StoreSettings, TableSettings
from embedding_store.shard import Shard
from services.local.servers import start_valkey

_WIDTHS = (2, 4, 8, 16, 32)
_NOW_MS = 1_700_000_000_000
_AT_ONCE = 4096


def _ids(first: int, count: int) -> NDArray[np.int64]:
    """Distinct ids all over the range, the same for every run."""
    return (np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)


def _blocks(table: TableSettings, rows: int) -> Iterator[Block]:
    rng = np.random.default_rng(0)
    for first in range(0, rows, _AT_ONCE):
        count = min(_AT_ONCE, rows - first)
        entries = np.zeros(count, dtype=entry_dtype(table.dim, table.state_width(table.dim), table.lead))
        entries["version"], entries["seq"], entries["count"], entries["last_seen"] = VERSION, 1, 1, _NOW_MS
        entries["id"] = _ids(first, count)
        entries["values"] = rng.normal(0, 0.1, entries["values"].shape)
        entries["state"] = 0.1
        yield Block(table.name, entries)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def memory(rows: int, widths: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Bytes a row of a full replica, as it counts them and as the process grew."""
    for dim in widths:
        table = TableSettings(name="t", dim=dim)
        payload = 4 * (table.lead + dim + table.state_width(dim)) + HEADER_BYTES + ID_BYTES
        for codec in get_args(Codec):
            for blocks in (_blocks(table, 2), _blocks(table, rows)):  # the first compiles
                before = _resident()
                shard = Shard([table], 1, learning=False, codec=codec)
                for block in blocks:
                    shard.apply(block)
            grown = _resident() - before
            yield {
                "rows": rows, "width": dim, "codec": codec, "payload": payload,
                "bytes_a_row": round(shard.nbytes / rows, 1), "resident_a_row": round(grown / rows, 1),
                "to_payload": round(shard.nbytes / rows / payload, 3),
            }  # fmt: skip


def _bare_read_s(log: CommitLog) -> float:
    """Seconds to read as many bytes: every hash of the table by DUMP, which is one reply each."""
    start = time.perf_counter()
    names = log.keys.all_rows("t", read_sizes(log)["t"].hashes)
    for first in range(0, len(names), 64):
        pipe = log.client.pipeline(transaction=False)
        for name in names[first : first + 64]:
            pipe.dump(name)
        pipe.execute()
    return time.perf_counter() - start


def _request(rng: np.random.Generator, rows: int, candidates: int) -> tuple[Occurrences, Fields]:
    """One visitor and so many items, zipf, over four fields of one table."""
    ids = rng.zipf(1.1, size=(candidates, 4)) % rows
    ids[:, 0] = ids[0, 0]
    flat = (ids.ravel().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    batch = Occurrences(flat, np.zeros(flat.size, dtype=np.bool_), np.arange(flat.size + 1, dtype=np.int64))
    return batch, plain_fields([0] * 4)


def _look(replica: Replica, batch: Occurrences, fields: Fields) -> None:
    assert replica.snapshot is not None  # noqa: S101 - the caller has waited for it
    shard = replica.snapshot.shard
    while True:
        with replica.lock:
            shard.gather(shard.lookup(batch, fields), batch, fields)
            misses = shard.take_misses()
        if not misses or not replica.fetch(shard, misses):
            return


class _Nobody:
    def restarted(self, snapshot: object) -> None:
        """Nothing."""

    def applied(self, commit_id: object, commit: object) -> None:
        """Nothing."""


def served(rows: int, dim: int, requests: int, candidates: int) -> Iterator[dict[str, Any]]:
    """Bootstrap, then rows of requests looked up and pooled: full, and cached with a tenth of the rows."""
    table = TableSettings(name="t", dim=dim)
    with tempfile.TemporaryDirectory() as name, start_valkey(Path(name)) as server:
        settings = StoreSettings(url=server.url)
        log = CommitLog(connect(settings), Keys(settings.prefix))
        owner = Owner(settings)
        owner.open()
        fill(owner, dim, _blocks(table, rows))
        owner.close()
        bare_s = min(_bare_read_s(log) for _ in range(2))
        for codec in get_args(Codec):
            bootstrap(log, learning=False)
            start = time.perf_counter()
            bootstrap(log, learning=False, make=whole(False, codec))
            took_s = time.perf_counter() - start
            yield {
                "bootstrap": codec, "rows": rows, "seconds": round(took_s, 2), "bare_read_seconds": round(bare_s, 2),
                "ratio": round(took_s / bare_s, 2),
            }  # fmt: skip
        for share in (None, 0.5, 0.1, 0.02):
            budget = None if share is None else int(share * rows * (80 + 4 * (1 + (dim + 1) // 2)))
            yield {
                "candidates": candidates,
                **_latency(settings, Holding("float16", budget), rows, requests, candidates),
            }


def _latency(settings: StoreSettings, holding: Holding, rows: int, requests: int, candidates: int) -> dict[str, Any]:
    replica = Replica(settings, _Nobody(), holding=holding)
    replica.start()
    while replica.snapshot is None or replica.age_ms is None:
        time.sleep(0.01)
    time.sleep(1.5)  # until it has heard what is folded
    rng = np.random.default_rng(1)
    for _ in range(requests):
        _look(replica, *_request(rng, rows, candidates))
    before, took = Tally(replica.tally.hits, replica.tally.misses), []
    for _ in range(requests):
        batch, fields = _request(rng, rows, candidates)
        start = time.perf_counter()
        _look(replica, batch, fields)
        took.append((time.perf_counter() - start) * 1000)
    hits, misses = replica.tally.hits - before.hits, replica.tally.misses - before.misses
    shard = replica.snapshot.shard
    found = {
        "replica": "cached" if isinstance(shard, CachedShard) else "full",
        "memory_mib": round(shard.nbytes / (1 << 20), 1),
        "hit_rate": round(hits / (hits + misses), 4) if hits else 1.0,
        "p50_ms": round(float(np.quantile(took, 0.5)), 3),
        "p99_ms": round(float(np.quantile(took, 0.99)), 3),
    }
    replica.stop()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--widths", type=int, nargs="*", default=_WIDTHS)
    parser.add_argument("--stored", type=int, default=1_000_000, help="rows in the store; 0: no store")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=100)
    wanted = parser.parse_args()
    for row in memory(wanted.rows, tuple(wanted.widths)):
        print(json.dumps(row), flush=True)
    if wanted.stored:
        for row in served(wanted.stored, 16, wanted.requests, wanted.candidates):
            print(json.dumps(row), flush=True)
