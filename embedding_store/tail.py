"""What the log's tail did to rows: of each id the last thing, by table and in canonical order."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedding_store.codec import Block
from embedding_store.commit import Commit
from embedding_store.layout import canonical_key

_NO_KEYS = np.empty(0, dtype=np.uint64)
_NO_IDS = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class TableTail:
    """The end state of one table's changed rows.

    Attributes:
        dropped: Whether all rows that were there before are gone.
        cold: The cold row, in a block of its own.
        gone: Keys and ids of removed rows, by key.
        groups: Keys and entries of changed rows, by key; a group for each width.
    """

    dropped: bool = False
    cold: Block | None = None
    gone: tuple[NDArray[np.uint64], NDArray[np.int64]] = (_NO_KEYS, _NO_IDS)
    groups: list[tuple[NDArray[np.uint64], NDArray[np.void]]] = field(default_factory=list)

    def gone_within(self, low: int, high: int) -> NDArray[np.int64]:
        """Ids of the removed rows with keys from `low` to `high`, exclusive."""
        return self.gone[1][_within(self.gone[0], low, high)]

    def changed_within(self, low: int, high: int) -> list[NDArray[np.void]]:
        """Entries of the changed rows with keys from `low` to `high`, exclusive."""
        return [some for keys, entries in self.groups if (some := entries[_within(keys, low, high)]).size]


def _within(keys: NDArray[np.uint64], low: int, high: int) -> slice:
    first, last = (int(np.searchsorted(keys, np.uint64(k))) if k < 1 << 64 else keys.size for k in (low, high))
    return slice(first, last)


class Tail:
    """Takes commits in their order, then tells what became of the rows. The filter is not its concern."""

    def __init__(self) -> None:
        self._order = 0
        self._dropped: set[str] = set()
        self._gone: dict[str, list[tuple[int, NDArray[np.int64]]]] = {}
        self._blocks: dict[str, list[tuple[int, Block]]] = {}

    def add(self, commit: Commit) -> None:
        """Takes the next commit."""
        for name in commit.dropped:
            self._dropped.add(name)
            self._gone.pop(name, None)
            self._blocks.pop(name, None)
        # an id may be gone and come back in one commit, so a removal is older than a row of its own commit
        for name, ids in commit.gone.items():
            self._gone.setdefault(name, []).append((2 * self._order, ids))
        for block in commit.blocks:
            self._blocks.setdefault(block.table, []).append((2 * self._order + 1, block))
        self._order += 1

    def take(self, name: str) -> TableTail:
        """What became of a table's rows. What this held of them is let go."""
        found = TableTail(name in self._dropped)
        blocks, gone = self._blocks.pop(name, []), self._gone.pop(name, [])
        for _, block in blocks:
            if (cold := block.cold).any():
                found.cold = Block(name, block.entries[cold])
        parts = [block.entries["id"].astype(np.int64) for _, block in blocks] + [ids for _, ids in gone]
        if not parts:
            return found
        sizes = [part.size for part in parts]
        ids = np.concatenate(parts).astype(np.int64)
        order = np.repeat([o for o, _ in blocks] + [o for o, _ in gone], sizes)
        source = np.repeat(np.arange(len(parts)), sizes)
        place = np.concatenate([np.arange(size) for size in sizes])
        own = ~np.concatenate([block.cold for _, block in blocks] + [np.zeros(ids.size, np.bool_) for _, ids in gone])
        ids, order, source, place = ids[own], order[own], source[own], place[own]
        keys = canonical_key(ids)
        ranked = np.lexsort((order, keys))
        last = np.ones(ranked.size, dtype=np.bool_)
        last[:-1] = keys[ranked][1:] != keys[ranked][:-1]
        chosen = ranked[last]
        removed = chosen[source[chosen] >= len(blocks)]
        found.gone = (keys[removed], ids[removed])
        chosen = chosen[source[chosen] < len(blocks)]
        types = {block.entries.dtype: number for number, (_, block) in enumerate(blocks)}
        type_of = np.array([types[block.entries.dtype] for _, block in blocks], dtype=np.int64)
        for dtype, number in types.items():
            some = chosen[type_of[source[chosen]] == number]
            if some.size:
                found.groups.append((keys[some], _collected(blocks, source[some], place[some], dtype)))
        return found


def _collected(
    blocks: list[tuple[int, Block]], source: NDArray[np.int64], place: NDArray[np.int64], dtype: np.dtype[np.void]
) -> NDArray[np.void]:
    """Entries from many blocks of one width, in the order asked for."""
    out = np.empty(source.size, dtype=dtype)
    order = np.argsort(source, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(source[order])) + 1):
        out[some] = blocks[source[some[0]]][1].entries[place[some]]
    return out
