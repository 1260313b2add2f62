"""A materializer under the commits of 30,000 examples a second: does it keep up, and what does it cost? Prints JSON.

Commits are made of zipf ids of 24 fields, over a table of a million rows, every 250 ms. The owner is the trainer's own;
what it would compute is left out, so that only the store is measured.
"""

import argparse
import hashlib
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from embedding_store.change import FOLD
from embedding_store.codec import Block, entry_dtype
from embedding_store.commit import Commit
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.owner import Owner
from embedding_store.redis_client import connect
from embedding_store.rows import read_sizes
from embedding_store.settings import StoreSettings, TableSettings
from services.local.servers import start_valkey

DTYPE = entry_dtype(16, 2)
FIELDS = 24


def commit_of(ids: np.ndarray[Any, np.dtype[np.int64]], rng: np.random.Generator, definition: bytes) -> Commit:
    """What a trainer would commit after seeing these ids."""
    entries = np.zeros(ids.size, dtype=DTYPE)
    entries["id"], entries["version"], entries["count"] = ids, 1, 1
    entries["values"] = rng.random((ids.size, 17), dtype=np.float32)
    entries["state"] = 1.0
    return Commit(0, definition, {}, [Block("t", entries)])


class Visitor(threading.Thread):
    """Another client's GET, again and again: how long the server makes others wait."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._client = connect(StoreSettings(url=url))
        self._client.set("visitor", b"x")
        self.times: list[float] = []
        self.going = True

    def run(self) -> None:
        """Asks until told to stop."""
        while self.going:
            start = time.perf_counter()
            self._client.get("visitor")
            self.times.append(time.perf_counter() - start)
            time.sleep(0.002)


def run(rows: int, examples_per_second: int, seconds: int, skew: float) -> dict[str, Any]:
    """One run on an embedded Valkey."""
    rng = np.random.default_rng(1)
    every = rng.integers(0, 2**63 - 1, rows, dtype=np.int64)
    definition = json.dumps({"tables": [TableSettings(name="t", dim=16).model_dump(mode="json")], "seed": 1}).encode()
    with tempfile.TemporaryDirectory() as name, start_valkey(Path(name)) as server:
        settings = StoreSettings(url=server.url, prefix="bench", log_bytes="256MiB")
        log = CommitLog(connect(settings), Keys("bench"))
        owner = Owner(settings)
        owner.open()
        for first in range(0, rows, 50_000):
            owner.commit(commit_of(every[first : first + 50_000], rng, definition))
        while owner.unfolded_bytes:
            time.sleep(0.05)
        log.client.config_set("slowlog-log-slower-than", 1000)
        log.client.config_set("slowlog-max-len", 10_000)
        log.client.slowlog_reset()
        log.client.config_resetstat()
        visitor = Visitor(server.url)
        visitor.start()
        cpu, start = _cpu_s(log), time.perf_counter()
        committed, distinct, worst_lag_bytes = 0, 0, 0
        commit_s: list[float] = []
        recent: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        for step in range(seconds * 4):
            drawn = rng.zipf(skew, FIELDS * examples_per_second // 4) % rows
            drawn = np.unique(drawn)
            commit = commit_of(every[drawn], rng, definition)
            committed += commit.row_count
            recent.append(drawn)
            if len(recent) == 8:
                distinct += np.unique(np.concatenate(recent)).size
                recent = []
            begun = time.perf_counter()
            owner.commit(commit)
            commit_s.append(time.perf_counter() - begun)
            worst_lag_bytes = max(worst_lag_bytes, owner.unfolded_bytes)
            time.sleep(max(0.0, start + (step + 1) / 4 - time.perf_counter()))
        took = time.perf_counter() - start
        while owner.unfolded_bytes:
            time.sleep(0.05)
        visitor.going = False
        visitor.join()
        slow, stats = log.client.slowlog_get(10_000), log.client.info("commandstats")
        kinds: dict[str, list[float]] = {}
        fold = hashlib.sha1(FOLD.encode(), usedforsecurity=False).hexdigest().encode()
        for entry in slow:
            words = entry["command"].split(b" ")
            name = words[0].decode()
            if name == "EVALSHA":
                name = "fold" if words[1] == fold else "append"
            kinds.setdefault(name, []).append(entry["duration"] / 1000)
        waits = np.array(visitor.times) * 1000
        return {
            "examples_per_second": examples_per_second,
            "committed_rows_per_second": committed / took,
            "rows": read_sizes(log)["t"].rows,
            "distinct_rows_per_second_in_2_s": distinct / took,
            "server_core_share": (_cpu_s(log) - cpu) / took,
            "server_seconds_per_second": {
                name: round(stats[f"cmdstat_{name}"]["usec"] / 1e6 / took, 3) for name in ("evalsha", "hset", "xadd")
            },
            "on_time": took < seconds * 1.02,
            "commit_p50_ms": float(np.median(commit_s)) * 1000,
            "commit_max_ms": max(commit_s) * 1000,
            "worst_unfolded_bytes": worst_lag_bytes,
            "commands_over_1_ms": {
                kind: {"count": len(ms), "median_ms": float(np.median(ms)), "longest_ms": max(ms)}
                for kind, ms in kinds.items()
            },
            "other_clients_get_ms": {
                "p50": float(np.median(waits)), "p99": float(np.percentile(waits, 99)), "max": float(waits.max()),
            },
        }  # fmt: skip


def _cpu_s(log: CommitLog) -> float:
    found = log.client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=30_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--skew", type=float, default=1.2, help="exponent of the ids' zipf distribution; above 1")
    args = parser.parse_args()
    print(json.dumps(run(args.rows, args.rate, args.seconds, args.skew), indent=1))


if __name__ == "__main__":
    main()
