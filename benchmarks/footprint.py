"""What admission and expiry keep of a zipf stream, what that costs in AUC, and how often the filter admits too early.

The stream: synthetic impressions of a million users and 200,000 items, about eight days of event time at the full
length, learned from once as `dolmen experiment footprint` does; nine ids an example. Rows and bytes are those at the
end. The filter is compared with exact counts over the same window, on zipf ids. Prints JSON.
"""

import argparse
import json
import sys
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from embedding_store.admission import SPLITS, FilterArrays, SlidingFilter, sight
from embedding_store.settings import AdmissionSettings
from experiments import footprint as rule
from experiments.data import shipped

OCCURRENCES = 20_000_000
ADMIT_AFTER = (1, 2, 5)
EXPIRE_MS = 2 * 86_400_000
FILTER_BYTES = (AdmissionSettings().memory, 1 << 20, 1 << 18)
_IDS, _SKEW = 5_000_000, 1.05


def learned(occurrences: int, admit_after: int, expire_ms: int | None) -> dict[str, Any]:
    """One pass with one kind of tables."""
    examples = occurrences // len(shipped("synthetic", 1)[0].fields)
    report = rule.learned(rule.Part("synthetic", admit_after, expire_ms, 1, examples)).report(tail=examples // 4)
    click = report["tasks"]["click"]
    return {
        "admit_after": admit_after, "expire_ms": expire_ms, "examples": examples, "rows": report["rows"],
        "bytes": report["bytes"], "auc": click["auc"], "auc_tail": click["auc_tail"],
        "auc_tail_truth": click["auc_tail_truth"], "examples_per_second": report["examples_per_second"],
    }  # fmt: skip


@numba.njit(cache=True)
def _compare(
    filters: FilterArrays,
    ids: NDArray[np.int64],
    admit_after: int,
    exact: NDArray[np.uint16],
    inside: NDArray[np.bool_],
    counts: NDArray[np.int64],
) -> None:
    """Sightings of one part of the window: counted both ways until an id is in.

    Args:
        filters: The filter.
        ids: int64[N], from 0 on.
        admit_after: Sightings that admit.
        exact: uint16[SPLITS, ids], of each part of the window.
        inside: bool[ids], who was admitted.
        counts: int64[4]: admitted, of them too early, sightings not admitted though enough were seen, sightings.
    """
    newest = filters.control[0]
    for i in range(ids.size):
        key = ids[i]
        counts[3] += 1
        if inside[key]:
            continue
        exact[newest, key] += 1
        seen = 0
        for split in range(SPLITS):
            seen += exact[split, key]
        if sight(filters, np.uint64(1), key) >= admit_after:
            inside[key] = True
            counts[0] += 1
            counts[1] += seen < admit_after
        elif seen >= admit_after:
            counts[2] += 1


def filtered(occurrences: int, admit_after: int, memory_bytes: int) -> dict[str, Any]:
    """The filter against exact counts, over a stream that fills two windows."""
    found = SlidingFilter(memory_bytes, SPLITS * 1000)
    exact = np.zeros((SPLITS, _IDS), dtype=np.uint16)
    inside = np.zeros(_IDS, dtype=np.bool_)
    counts = np.zeros(4, dtype=np.int64)
    rng = np.random.default_rng(1)
    weights = np.cumsum(np.arange(1, _IDS + 1, dtype=np.float64) ** -_SKEW)
    parts = 2 * SPLITS
    for part in range(parts):
        found.advance(1000 * part)
        exact[int(found.arrays.control[0])] = 0
        ids = np.searchsorted(weights, rng.random(occurrences // parts) * weights[-1]).astype(np.int64)
        _compare(found.arrays, ids, admit_after, exact, inside, counts)
    return {
        "admit_after": admit_after, "memory_bytes": memory_bytes, "sightings": int(counts[3]),
        "distinct_admitted": int(counts[0]), "early": int(counts[1]), "late_sightings": int(counts[2]),
        "pushed_out": found.pushed_out,
    }  # fmt: skip


def run(occurrences: int) -> dict[str, Any]:
    """Admission with and without expiry, then the filters."""
    kept = []
    for expire_ms in (None, EXPIRE_MS):
        for admit_after in ADMIT_AFTER:
            kept.append(learned(occurrences, admit_after, expire_ms))
            print(kept[-1], file=sys.stderr)
    filters = [filtered(occurrences, n, size) for n in ADMIT_AFTER[1:] for size in FILTER_BYTES]
    return {"kept": kept, "filters": filters}


def section(occurrences: int = OCCURRENCES) -> str:
    """The results as Markdown."""
    found = run(occurrences)
    whole = found["kept"][0]
    kept = [
        [
            f"{r['admit_after']}", "never" if r["expire_ms"] is None else f"{r['expire_ms'] / 86_400_000:g} days",
            f"{r['rows']:,} ({r['rows'] / whole['rows']:.0%})",
            f"{r['bytes'] / 1e6:,.0f} MB ({r['bytes'] / whole['bytes']:.0%})",
            f"{r['auc']:.4f}", f"{r['auc_tail']:.4f}",
        ]
        for r in found["kept"]
    ]  # fmt: skip
    filters = [
        [
            f"{r['admit_after']}", f"{r['memory_bytes'] / (1 << 20):g} MiB", f"{r['distinct_admitted']:,}",
            f"{r['early']:,} ({r['early'] / max(1, r['distinct_admitted']):.3%})",
            f"{r['late_sightings']:,} ({r['late_sightings'] / r['sightings']:.3%})", f"{r['pushed_out']:,}",
        ]
        for r in found["filters"]
    ]  # fmt: skip
    return (
        f"{whole['examples']:,} examples, {occurrences:,} ids; the true probabilities have an AUC of "
        f"{whole['auc_tail_truth']:.4f} over the last quarter. The filter's own memory is in the bytes.\n\n"
        + table(["admit after", "expiry", "rows", "bytes of the trainer", "AUC", "AUC, last quarter"], kept)
        + f"\n\n{found['filters'][0]['sightings']:,} sightings of {_IDS:,} zipf ids (exponent {_SKEW}) over two "
        "windows, filter against exact counts:\n\n"
        + table(["admit after", "filter", "ids admitted", "of them too early", "sightings kept out too long",
                 "counters pushed out"], filters)
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=OCCURRENCES)
    print(json.dumps(run(parser.parse_args().ids), indent=1))


if __name__ == "__main__":
    main()
