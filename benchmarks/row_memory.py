"""Bytes a row in Redis, trainer and replica, against the payload, over widths. Prints JSON.

Payload: the values, the state of row-wise Adagrad, an 8-byte id and a header of 20 bytes. Redis is the embedded Valkey
with every commit folded and the log trimmed. Trainer and replica are measured in processes of their own, by what the
store counts and by what the kernel says that the process grew.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import orjson

from benchmarks.markdown import resident_bytes, table
from embedding_store.codec import HEADER_BYTES, ID_BYTES, VERSION, Block, entry_dtype
from embedding_store.commit import Commit
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.owner import Owner
from embedding_store.redis_client import connect
from embedding_store.serving import Codec
from embedding_store.settings import StoreSettings, TableSettings
from embedding_store.shard import Shard
from services.local.servers import start_valkey

WIDTHS = (2, 4, 8, 16, 32)
ROWS = 1_000_000
CODECS = get_args(Codec)
"""Of the replica."""
_CHUNK = 50_000


def tables(dim: int) -> list[TableSettings]:
    return [TableSettings(name="t", dim=dim)]


def block(dim: int, first: int, rows: int) -> Block:
    """New rows; equal arguments give equal ones."""
    rng = np.random.default_rng(first)
    entries = np.zeros(rows, dtype=entry_dtype(dim, 2))
    entries["id"] = rng.integers(0, 2**63 - 1, rows, dtype=np.int64)
    entries["version"], entries["count"] = VERSION, 1
    entries["last_seen"] = 1_767_225_600_000 + rng.integers(0, 10**9, rows)
    entries["values"] = rng.random((rows, 1 + dim), dtype=np.float32)
    entries["state"] = 1.0
    return Block("t", entries)


def payload(dim: int) -> int:
    """Bytes of a row's values, state, id and header."""
    return 4 * (1 + dim + 2) + ID_BYTES + HEADER_BYTES


def blocks(dim: int, rows: int) -> Iterator[Block]:
    """So many new rows, some at a time."""
    for first in range(0, rows, _CHUNK):
        yield block(dim, first, min(_CHUNK, rows - first))


def fill(owner: Owner, dim: int, some: Iterable[Block]) -> None:
    """Commits rows and waits until all are folded."""
    definition = orjson.dumps({"tables": [t.model_dump(mode="json") for t in tables(dim)], "seed": 1})
    for part in some:
        owner.commit(Commit(1_767_225_600_000, definition, {}, [part]))
    while owner.unfolded_bytes:
        owner.check()
        time.sleep(0.05)


def in_redis(dim: int, rows: int) -> float:
    """Bytes a row that the server's memory grows by."""
    with tempfile.TemporaryDirectory() as name, start_valkey(Path(name)) as server:
        settings = StoreSettings(url=server.url, prefix="bench", timeout="60s")
        log = CommitLog(connect(settings), Keys("bench"))
        owner = Owner(settings)
        owner.open()
        before = log.client.info("memory")["used_memory"]
        fill(owner, dim, blocks(dim, rows))
        owner.close()
        log.client.xtrim(log.keys.log, maxlen=0, approximate=False)
        grown = log.client.info("memory")["used_memory"] - before
        log.client.close()
        return float(grown) / rows


def in_process(dim: int, rows: int, kind: str) -> dict[str, float]:
    """Bytes a row of the trainer or of a replica, in this process: as counted, and as the process grew."""
    codec: Codec = "float32" if kind == "trainer" else kind  # type: ignore[assignment]  # a codec by its name
    Shard(tables(dim), 1, kind == "trainer", codec=codec).apply(block(dim, 0, 10))
    before = resident_bytes()
    shard = Shard(tables(dim), 1, kind == "trainer", codec=codec)
    for first in range(0, rows, _CHUNK // 10):
        shard.apply(block(dim, first, min(_CHUNK // 10, rows - first)))
    counted = shard.nbytes
    return {"counted": counted / rows, "grown": (resident_bytes() - before) / rows}


def _apart(dim: int, rows: int, kind: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.row_memory", "--rows", str(rows), "--one", kind, str(dim)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def run(rows: int) -> list[dict[str, Any]]:
    """Every width in turn."""
    return [
        {
            "dim": dim, "payload": payload(dim), "redis": in_redis(dim, rows), "trainer": _apart(dim, rows, "trainer"),
            "replica": {codec: _apart(dim, rows, codec) for codec in CODECS},
        }
        for dim in WIDTHS
    ]  # fmt: skip


def section(rows: int = ROWS) -> str:
    """The results as Markdown."""
    head = ["width", "payload", "Redis", "trainer", "trainer's process grew",
            *(text for codec in CODECS for text in (f"replica, {codec}", "its process grew"))]  # fmt: skip

    def cell(found: float, of: int) -> str:
        return f"{found:.0f} ({found / of:.2f})"

    lines = []
    for r in run(rows):
        of = r["payload"]
        line = [f"{r['dim']}", f"{of}", cell(r["redis"], of)]
        for found in (r["trainer"], *r["replica"].values()):
            line += [cell(found["counted"], of), cell(found["grown"], of)]
        lines.append(line)
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "WIDTH"), help="trainer or a codec, in this process only")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(in_process(int(args.one[1]), args.rows, args.one[0])))
        return
    for line in run(args.rows):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
