"""From Redis to a shard that works, against the bare time to read as many bytes. Prints JSON.

Ten million rows of width 16 with row-wise Adagrad lie in the embedded Valkey, all folded. Bare reading sends the same
scans over one socket and throws the answers away unparsed, so it is what server and kernel alone take. The trainer's
time to its first batch is restoring, fencing, and one batch scored, learned and committed; full speed is the first
fifty batches at nine tenths of the pace of the last ones.
"""

import argparse
import json
import socket
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from benchmarks.markdown import table
from benchmarks.row_memory import blocks, fill, payload, tables
from embedding_store.bootstrap import bootstrap
from embedding_store.commit import Commit
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.lookup import Occurrences, plain_fields
from embedding_store.owner import Owner
from embedding_store.redis_client import connect
from embedding_store.rows import read_sizes
from embedding_store.settings import StoreSettings
from embedding_store.shard import Shard
from services.local.servers import start_valkey

ROWS = 10_000_000
DIM = 16
_HASHES = 64
_EXAMPLES, _FIELDS, _BATCHES, _WINDOW = 64, 24, 4000, 50


def bare(log: CommitLog, url: str) -> dict[str, float]:
    """Sends every scan, 64 a round trip, and counts what comes back."""
    hashes = read_sizes(log)["t"].hashes
    where = urlparse(url)
    buffer = memoryview(bytearray(1 << 20))
    received = 0
    with socket.create_connection((where.hostname, where.port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        for first in range(0, hashes, _HASHES):
            names = log.keys.row_names("t", np.arange(first, min(first + _HASHES, hashes)))
            scans = [b"*5\r\n$5\r\nHSCAN\r\n$%d\r\n%b\r\n$1\r\n0\r\n$5\r\nCOUNT\r\n$4\r\n2000\r\n" % (len(n), n)
                     for n in names]  # fmt: skip
            line.sendall(b"".join([*scans, b"PING\r\n"]))
            end = b""
            while not end.endswith(b"+PONG\r\n"):
                count = line.recv_into(buffer)
                end = (end + buffer[max(0, count - 7) : count].tobytes())[-7:]
                received += count
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": received}


def _batch(rng: np.random.Generator, known: np.ndarray[Any, np.dtype[np.int64]]) -> Occurrences:
    size = _EXAMPLES * _FIELDS
    ids = known[rng.zipf(1.2, size) % known.size]
    return Occurrences(ids, np.zeros(size, dtype=np.bool_), np.arange(size + 1))


def _learn(shard: Shard, batch: Occurrences, number: int) -> None:
    fields = plain_fields([0] * _FIELDS)
    rows = shard.lookup(batch, fields)
    pooled = shard.gather(rows, batch, fields)
    times = np.full(_EXAMPLES, shard.clock_ms + 1, dtype=np.int64)
    origins = np.arange(number * _EXAMPLES, (number + 1) * _EXAMPLES).astype(np.uint64)
    updated = shard.sight(batch, rows, fields, times, origins)
    shard.step(batch, rows, updated, np.full_like(pooled, 0.01), fields)
    shard.pass_on(times)


def trainer(settings: StoreSettings, compiled: Shard) -> dict[str, float]:
    """A trainer that starts."""
    known = np.random.default_rng(0).integers(0, 2**63 - 1, 50_000, dtype=np.int64)
    rng = np.random.default_rng(3)
    _learn(compiled, _batch(rng, known), 0)
    owner = Owner(settings)
    start = time.perf_counter()
    snapshot = owner.open()
    restored = time.perf_counter() - start
    if snapshot is None:
        raise RuntimeError("the store is empty")
    shard, ends = snapshot.shard, []
    for number in range(_BATCHES):
        _learn(shard, _batch(rng, known), number)
        if number % _WINDOW == 0:
            blocks, gone = shard.take_changes()
            owner.commit(Commit(shard.clock_ms, snapshot.definition, {}, blocks, gone, shard.parts()))
        ends.append(time.perf_counter() - start)
    owner.close()
    took = np.diff(np.array(ends)[::_WINDOW])
    full = int(np.flatnonzero(took <= np.median(took[took.size // 2 :]) / 0.9)[0])
    return {
        "restored_seconds": restored,
        "first_batch_seconds": ends[0],
        "full_speed_seconds": ends[full * _WINDOW],
        "rows": int(shard.counts.sum()),
    }


def run(rows: int) -> dict[str, Any]:
    """Fills a server, then reads it in every way."""
    with tempfile.TemporaryDirectory() as name, start_valkey(Path(name)) as server:
        settings = StoreSettings(url=server.url, prefix="bench", timeout="60s")
        log = CommitLog(connect(settings), Keys("bench"))
        owner = Owner(settings)
        owner.open()
        start = time.perf_counter()
        fill(owner, DIM, blocks(DIM, rows))
        filled = time.perf_counter() - start
        owner.close()
        for learning in (True, False):
            Shard(tables(DIM), 1, learning)
        read = min((bare(log, server.url) for _ in range(3)), key=lambda r: r["seconds"])
        start = time.perf_counter()
        snapshot = bootstrap(log, learning=False)
        replica = time.perf_counter() - start
        if snapshot is None or int(snapshot.shard.counts.sum()) < rows * 0.999:
            raise RuntimeError("rows are lacking")
        del snapshot
        started = trainer(settings, Shard(tables(DIM), 1))
        log.client.close()
    return {
        "rows": rows, "payload_bytes": rows * payload(DIM), "filled_seconds": filled, "bare": read,
        "replica_seconds": replica, "trainer": started,
    }  # fmt: skip


def section(rows: int = ROWS) -> str:
    """The results as Markdown."""
    r = run(rows)
    bare_s, trainer_s = r["bare"]["seconds"], r["trainer"]
    lines = [
        [name, f"{seconds:.1f} s", f"{seconds / bare_s:.1f}", f"{rows / seconds / 1e6:.2f} M"]
        for name, seconds in (
            (f"bare reading, {r['bare']['bytes'] / 1e6:,.0f} MB", bare_s),
            ("replica, bootstrapped", r["replica_seconds"]),
            ("trainer, restored", trainer_s["restored_seconds"]),
            ("trainer, first batch learned and committed", trainer_s["first_batch_seconds"]),
            ("trainer, at full speed", trainer_s["full_speed_seconds"]),
        )
    ]
    return f"{r['rows']:,} rows of {payload(DIM)} bytes.\n\n" + table(
        ["", "after", "times bare reading", "rows a second"], lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    print(json.dumps(run(parser.parse_args().rows), indent=1))


if __name__ == "__main__":
    main()
