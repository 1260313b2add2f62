"""Rows pooled, one an example, from more and more rows: nanoseconds a row. Prints JSON.

Rows are drawn evenly: the hardest case. Beside it a plain gather that fetches nothing ahead, and torch's from one
array. Each figure is the median of the batches, the ways in turn, by the CPU time of the thread.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.index_speed import DIM, distinct, filled
from benchmarks.markdown import table
from embedding_store.kernel import kernel
from embedding_store.lookup import Occurrences, plain_fields
from embedding_store.plan import LayoutArrays
from embedding_store.slabs import RowArrays

SIZES = (100_000, 1_000_000, 10_000_000)
BATCH = 4096
_BATCHES = 200


@kernel()
def _plain(rows: RowArrays, layouts: LayoutArrays, found: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    for n in range(found.size):
        header = rows.headers[found[n]]
        layout, at = np.int64(header.layout), np.int64(header.at)
        out[n, 0] = rows.memory[at]
        at += layouts.leads[layout]
        for i in range(layouts.dims[layout]):
            out[n, 1 + layouts.kept[layout, i]] = rows.memory[at + i]


def measure(rows: int) -> dict[str, float]:
    """Nanoseconds a row, of each way."""
    torch.set_num_threads(1)
    ids = distinct(rows)
    shard = filled(ids)
    arrays, fields = shard.arrays, plain_fields([0])
    weight = torch.ones((rows, DIM), dtype=torch.float32)
    offsets, known = np.arange(BATCH + 1), np.zeros(BATCH, dtype=np.bool_)
    out = np.zeros((BATCH, 1 + DIM), dtype=np.float32)
    rng = np.random.default_rng(2)

    def gathered(numbers: NDArray[np.int64]) -> object:
        return shard.gather(1 + numbers, Occurrences(numbers, known, offsets), fields)

    def looked_up(numbers: NDArray[np.int64]) -> object:
        batch = Occurrences(ids[numbers], known, offsets)
        return shard.gather(shard.lookup(batch, fields), batch, fields)

    def of_torch(numbers: NDArray[np.int64]) -> object:
        return torch.nn.functional.embedding(torch.from_numpy(numbers), weight)

    ways: dict[str, Callable[[NDArray[np.int64]], object]] = {
        "gathered": gathered,
        "gathered, nothing fetched ahead": lambda numbers: _plain(*arrays, 1 + numbers, out),
        "looked up and gathered": looked_up,
        "torch, gathered from one array": lambda numbers: torch.nn.functional.embedding(
            torch.from_numpy(numbers), weight
        ),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(_BATCHES):
        for way, call in ways.items():
            numbers = rng.integers(0, rows, BATCH)
            start = time.thread_time_ns()
            call(numbers)
            times[way].append((time.thread_time_ns() - start) / BATCH)
    return {way: float(np.median(some)) for way, some in times.items()}


def run(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Every way at every size."""
    return [{"rows": rows, **measure(rows)} for rows in sizes]


def section(sizes: tuple[int, ...] = SIZES) -> str:
    """The results as Markdown."""
    results = run(sizes)
    ways = [way for way in results[0] if way != "rows"]
    lines = [[f"{r['rows'] / 1e6:g} M", *(f"{r[way]:.0f} ns" for way in ways)] for r in results]
    return table(["rows", *ways], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=list(SIZES))
    print(json.dumps(run(tuple(parser.parse_args().rows)), indent=1))


if __name__ == "__main__":
    main()
