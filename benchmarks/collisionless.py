"""Twenty million distinct ids of each kind: how many share a row, here and in a hashed table of equal memory.

The crowding integers are what somebody would choose who knows the code: the hash, run backwards without a key, takes
them all into one segment. Their share of the fullest of 4,096 parts of the hash's range shows what the key of the
process makes of that. Prints JSON.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from embedding_store.ids import feature_ids
from embedding_store.index import HashIndex
from embedding_store.slabs import HEADER

ROWS = 20_000_000
STRIP_BYTES = 4 * (1 + 16 + 2)
"""Values and state at width 16 with row-wise Adagrad: all that a row of a hashed table holds."""
_CHUNK = 1 << 18
_PARTS = 4096
_ONE, _TWO = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def mixed(x: Hashes) -> Hashes:
    """The finalizer of splitmix64, in plain NumPy."""
    x = (x ^ (x >> np.uint64(30))) * _ONE
    x = (x ^ (x >> np.uint64(27))) * _TWO
    return x ^ (x >> np.uint64(31))


def _unshifted(x: Hashes, bits: int) -> Hashes:
    y = x
    for _ in range(64 // bits):
        y = x ^ (y >> np.uint64(bits))
    return y


def unmixed(x: Hashes) -> Hashes:
    """What `mixed` takes to x."""
    x = _unshifted(x, 31) * np.uint64(pow(int(_TWO), -1, 1 << 64))
    x = _unshifted(x, 27) * np.uint64(pow(int(_ONE), -1, 1 << 64))
    return _unshifted(x, 30)


def _random(first: int, last: int) -> Ids:
    """Integers that look random and are all different: a bijection of the numbers from 0 on."""
    return mixed(np.arange(first, last, dtype=np.uint64) + np.uint64(1 << 40)).view(np.int64)


def _consecutive(first: int, last: int) -> Ids:
    return np.arange(first, last, dtype=np.int64)


def _strings(first: int, last: int) -> Ids:
    return feature_ids([f"user-{i}" for i in range(first, last)])


def _crowding(first: int, last: int) -> Ids:
    """Without a key, the top bits of their hashes are the same for all."""
    return unmixed(np.arange(first, last, dtype=np.uint64) + (np.uint64(0x2B7) << np.uint64(54))).view(np.int64)


KINDS = {
    "consecutive integers": _consecutive,
    "integers all over the range": _random,
    "strings": _strings,
    "integers chosen to crowd the hash": _crowding,
}


def _fullest(ids: Iterator[Ids], salt: int) -> float:
    counts = np.zeros(_PARTS, dtype=np.int64)
    for some in ids:
        counts += np.bincount((mixed(some.view(np.uint64) ^ np.uint64(salt)) >> np.uint64(52)).astype(np.int64),
                              minlength=_PARTS)  # fmt: skip
    return float(counts.max() / counts.sum())


def measure(kind: str, rows: int) -> dict[str, Any]:
    """One kind of ids: into an index, and into a hashed table."""
    make = KINDS[kind]

    def chunks() -> Iterator[Ids]:
        return (make(first, min(first + _CHUNK, rows)) for first in range(0, rows, _CHUNK))

    index = HashIndex(1)
    holders = np.zeros(rows, dtype=np.uint8)
    seconds = 0.0
    for ids in chunks():
        start = time.perf_counter()
        found = index.lookup_or_insert(0, ids)
        seconds += time.perf_counter() - start
        np.add.at(holders, found, 1)
    row_bytes = index.nbytes / rows + HEADER.itemsize + STRIP_BYTES
    slots = int(rows * row_bytes / STRIP_BYTES)
    hashed = np.zeros(slots, dtype=np.uint32)
    for ids in chunks():
        places = (mixed(ids.view(np.uint64)) >> np.uint64(32)) * np.uint64(slots) >> np.uint64(32)
        np.add.at(hashed, places.astype(np.int64), 1)
    return {
        "kind": kind,
        "ids": rows,
        "shared_rows": int((holders != 1).sum()),
        "inserted_per_second": rows / seconds,
        "bytes_a_row": row_bytes,
        "fullest_part_without_key": _fullest(chunks(), 0),
        "fullest_part": _fullest(chunks(), int(index.arrays.salts[0])),
        "hashed_slots": slots,
        "hashed_ids_that_share": int(hashed[hashed > 1].sum(dtype=np.int64)),
    }


def run(rows: int) -> list[dict[str, Any]]:
    """Every kind in turn."""
    HashIndex(1).lookup_or_insert(0, np.arange(100_000))
    return [measure(kind, rows) for kind in KINDS]


def section(rows: int = ROWS) -> str:
    """The results as Markdown."""
    results = run(rows)
    head = ["distinct ids", "rows shared", "inserted", "fullest 4096th of the hash: key 0, this process's key",
            "hashed table of equal memory: ids that share a row"]  # fmt: skip
    lines = [
        [
            f"{r['ids']:,} {r['kind']}", f"**{r['shared_rows']:,}**", f"{r['inserted_per_second'] / 1e6:.1f} M/s",
            f"{r['fullest_part_without_key']:.4%}, {r['fullest_part']:.4%}",
            f"{r['hashed_ids_that_share']:,} ({r['hashed_ids_that_share'] / r['ids']:.0%})",
        ]
        for r in results
    ]  # fmt: skip
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    for line in run(parser.parse_args().rows):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
