"""The index at 1, 10 and 50 million rows against a dict, pandas' hash table and torch's row gather. Prints JSON.

Ids are drawn evenly, so that every look-up misses the cache: the hardest case. Each figure is the median over slices
of the run, so that what else the machine does now and then counts little; the ratios are to the index at as many rows.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pandas._libs.hashtable import Int64HashTable

from benchmarks.markdown import table
from embedding_store.arena import Arena
from embedding_store.codec import VERSION, Block, entry_dtype
from embedding_store.index import HashIndex
from embedding_store.kernel import kernel
from embedding_store.lookup import Occurrences, plain_fields
from embedding_store.prefetch import prefetch
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from embedding_store.table import BLOCK, mix

SIZES = (1_000_000, 10_000_000, 50_000_000)
BATCH = 4096
PAUSE_BATCH = 2000
DIM = 16
_SLICE = 16
_LOOKED_UP = 4_000_000
_FLOOR = "one line of memory an id"
_DICT_MOST = _SHARD_MOST = 10_000_000

Ids = NDArray[np.int64]


def distinct(rows: int) -> Ids:
    """So many different ids in random order."""
    rng = np.random.default_rng(1)
    ids = np.unique(rng.integers(0, 2**63 - 1, rows + rows // 1000 + 10, dtype=np.int64))
    rng.shuffle(ids)
    return ids[:rows]


def _slices(ids: Ids) -> Iterator[Ids]:
    for first in range(0, ids.size - BATCH * _SLICE + 1, BATCH * _SLICE):
        yield ids[first : first + BATCH * _SLICE]


def per_second(ids: Ids, call: Callable[[Ids], object]) -> float:
    """Ids a second, batch by batch; the median slice."""
    times = []
    for some in _slices(ids):
        start = time.perf_counter()
        for first in range(0, some.size, BATCH):
            call(some[first : first + BATCH])
        times.append(time.perf_counter() - start)
    return BATCH * _SLICE / float(np.median(times))


def _asked(ids: Ids) -> Ids:
    return ids[np.random.default_rng(2).integers(0, ids.size, _LOOKED_UP)]


def index(ids: Ids) -> dict[str, float]:
    """Into an empty index, then present ids."""
    made = HashIndex(1)
    inserted = per_second(ids, lambda some: made.lookup_or_insert(0, some))
    made.lookup_or_insert(0, ids)
    found = per_second(_asked(ids), lambda some: made.lookup_or_insert(0, some))
    return {"insert": inserted, "present": found, "bytes_a_row": made.nbytes / ids.size}


@kernel(inline="always")
def _line_of(memory: Ids, key: int) -> int:
    return int(mix(np.uint64(key)) % np.uint64(memory.shape[0]))


@kernel()
def _fetch_lines(memory: Ids, ids: Ids, out: Ids) -> None:
    for i in range(-BLOCK, ids.size):
        if i + BLOCK < ids.size:
            prefetch(memory, _line_of(memory, ids[i + BLOCK]))
        if i >= 0:
            out[i] = memory[_line_of(memory, ids[i]), 0]


def memory_lines(ids: Ids) -> dict[str, float]:
    """What no index can beat: one line of a memory of the index's size for each id, fetched ahead."""
    lines = ids.size * 7 // 16  # 28 bytes a row
    memory = Arena(np.int64, (8,), lines).array[:lines]
    memory[:] = 1
    out = np.empty(BATCH, dtype=np.int64)
    return {"present": per_second(_asked(ids), lambda some: _fetch_lines(memory, some, out))}


def python_dict(ids: Ids) -> dict[str, float]:
    """A dict of ints, row numbers given out in order."""
    made: dict[int, int] = {}

    def call(some: Ids) -> list[int]:
        return [made.setdefault(key, len(made)) for key in some.tolist()]

    inserted = per_second(ids, call)
    call(ids)
    return {"insert": inserted, "present": per_second(_asked(ids), call)}


def pandas_table(ids: Ids) -> dict[str, float]:
    """It has no lookup-or-insert: inserting maps ids to places in their batch, looking up reads."""
    made = Int64HashTable()
    inserted = per_second(ids, made.map_locations)
    made.map_locations(ids)
    return {"insert": inserted, "present": per_second(_asked(ids), made.lookup)}


def torch_rows(ids: Ids) -> dict[str, float]:
    """Gathering rows of a hashed table: no look-up at all, and ids that share rows."""
    torch.set_num_threads(1)
    weight = torch.zeros((ids.size, DIM), dtype=torch.float32)
    weight.fill_(1.0)

    def call(some: Ids) -> torch.Tensor:
        return torch.nn.functional.embedding(torch.from_numpy(some % ids.size), weight)

    with torch.inference_mode():
        return {"present": per_second(_asked(ids), call)}


def filled(ids: Ids) -> Shard:
    """A shard with a row for each id, in their order: the first one's is row 1."""
    shard = Shard([TableSettings(name="t", dim=DIM)], 1)
    for first in range(0, ids.size, 1 << 18):
        some = ids[first : first + (1 << 18)]
        entries = np.zeros(some.size, dtype=entry_dtype(DIM, 2))
        entries["version"], entries["id"] = VERSION, some
        shard.apply(Block("t", entries))
    return shard


def shard_rows(ids: Ids) -> dict[str, float]:
    """The whole way of one field: rows found, expiry looked at, one row pooled for each example."""
    shard = filled(ids)
    fields = plain_fields([0])

    def call(some: Ids) -> object:
        batch = Occurrences(some, np.zeros(some.size, dtype=np.bool_), np.arange(some.size + 1))
        return shard.gather(shard.lookup(batch, fields), batch, fields)

    return {"present": per_second(_asked(ids), call)}


def pauses(rows: int) -> dict[str, float]:
    """Every batch's time while an index grows from empty."""
    ids = distinct(rows)
    made = HashIndex(1)
    times, bytes_a_row = [], []
    for first in range(0, rows, PAUSE_BATCH):
        start = time.perf_counter()
        made.lookup_or_insert(0, ids[first : first + PAUSE_BATCH])
        times.append(time.perf_counter() - start)
        if first and first % (rows // 500) < PAUSE_BATCH:
            bytes_a_row.append(made.nbytes / (first + PAUSE_BATCH))
    ms = np.array(times) * 1000
    return {
        "rows": rows, "p50_ms": float(np.median(ms)), "p99_9_ms": float(np.percentile(ms, 99.9)),
        "longest_ms": float(ms.max()), "bytes_a_row_least": min(bytes_a_row), "bytes_a_row_most": max(bytes_a_row),
    }  # fmt: skip


WAYS: dict[str, tuple[Callable[[Ids], dict[str, float]], int]] = {
    "Dolmen's index": (index, max(SIZES)),
    _FLOOR: (memory_lines, max(SIZES)),
    "Python dict": (python_dict, _DICT_MOST),
    "pandas Int64HashTable": (pandas_table, max(SIZES)),
    "Dolmen, looked up and gathered, width 16": (shard_rows, _SHARD_MOST),
    "torch, hashed rows gathered, width 16": (torch_rows, max(SIZES)),
}


def run(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Every way at every size, then the pauses at the largest."""
    for way, _ in WAYS.values():
        way(distinct(200_000))
    results = []
    for rows in sizes:
        ids = distinct(rows)
        results += [{"way": name, "rows": rows, **way(ids)} for name, (way, most) in WAYS.items() if rows <= most]
    return {"speed": results, "pauses": pauses(max(sizes))}


def section(sizes: tuple[int, ...] = SIZES) -> str:
    """The results as Markdown."""
    found = run(sizes)
    base = {r["rows"]: r for r in found["speed"] if r["way"] == "Dolmen's index"}
    floor = {r["rows"]: r["present"] for r in found["speed"] if r["way"] == _FLOOR}
    first, last = base[min(sizes)], base[max(sizes)]
    lines = [
        [
            r["way"],
            f"{r['rows'] / 1e6:g} M",
            f"{r['present'] / 1e6:.1f} M/s",
            f"{base[r['rows']]['present'] / r['present']:.1f}",
            f"{r['insert'] / 1e6:.1f} M/s" if "insert" in r else "",
            f"{base[r['rows']]['insert'] / r['insert']:.1f}" if "insert" in r else "",
        ]
        for r in found["speed"]
    ]
    pause = found["pauses"]
    head = ["", "rows", "present ids", "index: times as fast", "new ids", "index: times as fast"]
    return table(head, lines) + (
        f"\n\nAt {last['rows'] / 1e6:g} M rows the index finds present ids at "
        f"**{last['present'] / first['present']:.2f}** of its speed at {first['rows'] / 1e6:g} M, and takes new ones "
        f"at **{last['insert'] / first['insert']:.2f}**; lines of memory come at "
        f"{floor[last['rows']] / floor[first['rows']]:.2f}. Growing from empty to {pause['rows'] / 1e6:g} M rows in "
        f"batches of {PAUSE_BATCH:,} new ids: longest pause of a batch **{pause['longest_ms']:.1f} ms**, 99.9 % within "
        f"{pause['p99_9_ms']:.2f} ms, median {pause['p50_ms']:.2f} ms; "
        f"{pause['bytes_a_row_least']:.0f} to {pause['bytes_a_row_most']:.0f} bytes a row on the way."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=list(SIZES))
    print(json.dumps(run(tuple(parser.parse_args().rows)), indent=1))


if __name__ == "__main__":
    main()
