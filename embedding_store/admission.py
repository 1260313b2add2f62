"""Which ids get a row: a sliding filter that counts sightings in a fixed memory.

The filter is a ring of `SPLITS` hash tables of small counters. Each stands for one part of the window; the newest
counts, all of them together tell. When the clock leaves the newest part, the oldest table is emptied and becomes the
newest, so ids that are seen too seldom age out. An entry is a fingerprint of 24 bits and a counter of 8 bits. Where
an id's bucket of 8 entries is full, the entry with the lowest count gives way.

**Source**: Monolith (arXiv 2209.07663), section 2.2.2; its public filter counts in 16-bit entries over 7 splits.
"""

from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from embedding_store.codec import PAGE_ENTRIES, Block, page_block
from embedding_store.kernel import kernel
from embedding_store.table import mix

SPLITS = 7
BUCKET = 8
MOST = 255
"""What a counter can hold, so the most that `admit_after` can ask for."""


class FilterArrays(NamedTuple):
    """What the kernels see.

    Attributes:
        entries: uint32[SPLITS, buckets * BUCKET]; fingerprint << 8 | count, 0 for empty.
        dirty: uint8[pages], pages changed since the last commit.
        control: int64[2], the newest split, and sightings that pushed a counter out.
    """

    entries: NDArray[np.uint32]
    dirty: NDArray[np.uint8]
    control: NDArray[np.int64]


@kernel()
def sight(filters: FilterArrays, seed: np.uint64, key: int) -> int:
    """Counts one sighting of an id, and tells how many there were in the window with it."""
    h = mix(mix(np.uint64(key) ^ seed) + np.uint64(0x9E3779B97F4A7C15))
    buckets = np.uint64(filters.entries.shape[1] // BUCKET)
    base = np.int64((h >> np.uint64(24)) % buckets) * BUCKET
    mark = np.uint32(h & np.uint64(0xFFFFFF)) << np.uint32(8)
    newest = filters.control[0]
    total = 0
    for split in range(SPLITS):
        for i in range(base, base + BUCKET):
            entry = filters.entries[split, i]
            if entry != 0 and (entry & np.uint32(0xFFFFFF00)) == mark:
                total += int(entry & np.uint32(0xFF))
    chosen, lowest = -1, MOST + 1
    for i in range(base, base + BUCKET):
        entry = filters.entries[newest, i]
        count = int(entry & np.uint32(0xFF))
        if entry != 0 and (entry & np.uint32(0xFFFFFF00)) == mark:
            chosen, lowest = i, -count - 1
            break
        if count < lowest:
            chosen, lowest = i, count
    if lowest < 0:
        count = min(int(-lowest), MOST)
    else:
        count = 1
        filters.control[1] += lowest > 0
    filters.entries[newest, chosen] = mark | np.uint32(count)
    filters.dirty[(newest * filters.entries.shape[1] + chosen) // PAGE_ENTRIES] = 1
    return total + 1


@kernel(inline="always")
def drawn(seed: np.uint64, key: int, origin: np.uint64, chance: float) -> bool:
    """Whether a sighting admits its id with probability `chance`; the draw is a hash of id and origin."""
    h = mix(mix(np.uint64(key) ^ seed) + mix(origin + np.uint64(0xD1B54A32D192ED03)))
    return bool(np.float64(h >> np.uint64(11)) < chance * 9007199254740992.0)


def chance_of(admit_after: int) -> float:
    """The probability with which 95 % of ids are in after `admit_after` sightings: 1 - 0.05^(1/N).

    >>> round(chance_of(1), 3), round(1 - (1 - chance_of(5)) ** 5, 3)
    (0.95, 0.95)
    """
    return float(1.0 - 0.05 ** (1.0 / admit_after))


class SlidingFilter:
    """The filter of a shard's tables; an id counts apart in each.

    Args:
        memory_bytes: Of all counters together; never grows.
        window_ms: Event time over which sightings are counted.
    """

    def __init__(self, memory_bytes: int, window_ms: int) -> None:
        per_split = max(PAGE_ENTRIES, memory_bytes // 4 // SPLITS // PAGE_ENTRIES * PAGE_ENTRIES)
        self.window_ms = window_ms
        self._entries = np.zeros((SPLITS, per_split), dtype=np.uint32)
        self._dirty = np.zeros(self._entries.size // PAGE_ENTRIES, dtype=np.uint8)
        self._stored = np.zeros(self._dirty.size, dtype=np.bool_)
        self._control = np.zeros(2, dtype=np.int64)
        self._part = -1
        self._strays: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    @property
    def arrays(self) -> FilterArrays:
        """What the kernels take."""
        return FilterArrays(self._entries, self._dirty, self._control)

    @property
    def nbytes(self) -> int:
        """Bytes of the counters."""
        return self._entries.nbytes

    @property
    def pushed_out(self) -> int:
        """Sightings that pushed a counter out.

        Since this process began: the filter is too small where there are many.
        """
        return int(self._control[1])

    def advance(self, clock_ms: int) -> None:
        """Turns the ring as far as the clock has come; parts of the window begin at whole multiples of their length."""
        part = clock_ms * SPLITS // self.window_ms
        turns = min(part - self._part, SPLITS) if self._part >= 0 else 0
        for _ in range(turns):
            newest = (int(self._control[0]) + 1) % SPLITS
            self._control[0] = newest
            if self._entries[newest].any():
                self._entries[newest] = 0
                pages = self._entries.shape[1] // PAGE_ENTRIES
                self._dirty[newest * pages : (newest + 1) * pages] = 1
        self._part = max(part, self._part)

    def take_changes(self) -> tuple[Block, NDArray[np.int64]]:
        """Pages changed since the last call, and numbers of pages that became empty."""
        changed = np.flatnonzero(self._dirty)
        self._dirty[:] = 0
        pages = self._entries.reshape(-1, PAGE_ENTRIES)
        full = pages[changed].any(axis=1)
        gone = changed[~full & self._stored[changed]]
        self._stored[changed] = full
        gone = np.union1d(gone, self._strays)
        self._strays = self._strays[:0]
        return page_block(changed[full], pages[changed[full]]), gone.astype(np.int64)

    def all_pages(self) -> Block:
        """Every page that is not empty, in order."""
        pages = self._entries.reshape(-1, PAGE_ENTRIES)
        numbers = np.flatnonzero(pages.any(axis=1))
        return page_block(numbers, pages[numbers])

    def apply(self, block: Block) -> None:
        """Takes pages of :meth:`take_changes`."""
        pages = self._entries.reshape(-1, PAGE_ENTRIES)
        numbers = block.entries["id"].astype(np.int64)
        inside = numbers < pages.shape[0]
        self._strays = np.union1d(self._strays, numbers[~inside])
        pages[numbers[inside]] = block.entries["page"][inside]
        self._stored[numbers[inside]] = True

    def remove(self, numbers: NDArray[np.int64]) -> None:
        """Empties pages."""
        self._strays = np.setdiff1d(self._strays, numbers)
        numbers = numbers[numbers < self._stored.size]
        self._entries.reshape(-1, PAGE_ENTRIES)[numbers] = 0
        self._stored[numbers] = False

    def state_json(self) -> bytes:
        """Where the ring stands."""
        state = {"newest": int(self._control[0]), "part": self._part, "entries": self._entries.shape[1]}
        return orjson.dumps(state, option=orjson.OPT_SORT_KEYS)

    def load_state(self, data: bytes) -> bool:
        """Takes what :meth:`state_json` gave; False, and an empty filter, if it was made for another memory.

        The pages of the other one are gone with the next :meth:`take_changes`.
        """
        state = orjson.loads(data)
        if state["entries"] != self._entries.shape[1]:
            self._strays = np.union1d(self._strays, np.flatnonzero(self._stored))
            self._entries[:] = 0
            self._stored[:] = False
            return False
        self._control[0] = state["newest"]
        self._part = state["part"]
        return True
