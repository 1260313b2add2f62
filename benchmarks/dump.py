"""``dolmen store`` on a large store: seconds, peak memory and file size of each command. Prints JSON.

Rows of width 16 with row-wise Adagrad lie in an embedded Valkey, the last 100,000 of them in the log. Each command is a
process of its own; `stats` of an empty store shows what starting one takes. The dump of the loaded store is compared
byte by byte.
"""

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from embedding_store.codec import Block, entry_dtype
from embedding_store.commit import ROOT, Commit, CommitId, encode
from embedding_store.keys import Keys
from embedding_store.log import CommitLog, epoch_number
from embedding_store.materializer import Materializer
from embedding_store.plan import Layouts
from embedding_store.redis_client import connect
from embedding_store.settings import StoreSettings, TableSettings
from services.local.servers import start_valkey

TABLE = TableSettings(name="t", dim=16)
STEP = 100_000
START_MS = 1_700_000_000_000


def fill(log: CommitLog, rows: int) -> None:
    """Commits rows of random ids and values."""
    rng = np.random.default_rng(1)
    epoch, head = log.raise_epoch(), ROOT
    materializer = Materializer(log, epoch, 1 << 20)
    definition = json.dumps({"tables": [TABLE.model_dump(mode="json")], "seed": 1}).encode()
    layouts = Layouts((TABLE,), True)
    layouts.arrays()
    for _ in range(0, rows, STEP):
        materializer.fold()
        entries = np.zeros(STEP, dtype=entry_dtype(TABLE.dim, TABLE.state_width(TABLE.dim)))
        entries["id"], entries["version"], entries["seq"] = rng.integers(0, 1 << 63, STEP), 1, head.seq + 1
        entries["count"] = rng.zipf(1.5, STEP).clip(1, 10**6)
        entries["last_seen"] = START_MS + rng.integers(0, 86_400_000, STEP)
        entries["values"] = rng.normal(0, 0.05, entries["values"].shape)
        entries["state"] = 0.01 + rng.gamma(1, 1, entries["state"].shape)
        new = CommitId(head.seq + 1, epoch_number(epoch))
        parts = {"layouts": layouts.to_json()}
        log.append(
            epoch, head, new, encode(Commit(START_MS + 86_400_000, definition, {}, [Block("t", entries)], parts=parts))
        )
        head = new


def run(url: str, prefix: str, *words: str) -> dict[str, Any]:
    """One command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", "store", *words],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "DOLMEN_STORE__URL": url, "DOLMEN_STORE__PREFIX": prefix},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"dolmen store {' '.join(words)}: exit code {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": usage.ru_maxrss >> 10,
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    found: dict[str, Any] = {"rows": args.rows}
    with tempfile.TemporaryDirectory() as name, start_valkey(Path(name)) as server:
        fill(CommitLog(connect(StoreSettings(url=server.url)), Keys("a")), args.rows)
        first, second, parquet = (Path(name) / file for file in ("a.dump", "b.dump", "a.parquet"))
        found["stats of an empty store"] = run(server.url, "empty", "stats")
        for command in (["dump", str(first)], ["stats"], ["verify"], ["export", str(parquet)]):
            found[command[0]] = run(server.url, "a", *command)
        found["load"] = run(server.url, "b", "load", str(first))
        run(server.url, "b", "dump", str(second))
        found["dump_bytes"], found["parquet_bytes"] = first.stat().st_size, parquet.stat().st_size
        found["equal"] = filecmp.cmp(first, second, shallow=False)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
