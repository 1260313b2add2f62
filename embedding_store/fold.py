"""Several commits as one change of the stored rows, and room for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from embedding_store.change import Change, batches, part_change, record_changes, size_change, unlink_changes
from embedding_store.codec import COLD_FIELD, ID_BYTES, Block
from embedding_store.commit import Commit
from embedding_store.keys import Keys
from embedding_store.layout import LAYOUT, Size, hash_of, next_split
from embedding_store.log import CommitLog
from embedding_store.rows import read_hashes, read_sizes

_SPLITS = 8
"""Hashes that are split at once: about a thousand rows are read, and half of them move."""

Send = Callable[[list[Change]], None]


@dataclass(slots=True)
class _Table:
    """What some commits did to one table."""

    dropped: bool = False
    blocks: list[tuple[int, Block]] = field(default_factory=list)
    gone: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)


class Fold:
    """Several commits in a row as one change of the rows: of a row that changed in all, only the last bytes count.

    Args:
        commits: In their order.
    """

    def __init__(self, commits: list[Commit]) -> None:
        self._tables: dict[str, _Table] = {}
        self._parts: dict[str, bytes] = {}
        for order, commit in enumerate(commits):
            for name in commit.dropped:
                self._tables[name] = _Table(dropped=True)
            for name, ids in commit.gone.items():
                self._tables.setdefault(name, _Table()).gone.append((order, ids))
            for block in commit.blocks:
                self._tables.setdefault(block.table, _Table()).blocks.append((order, block))
            self._parts.update(commit.parts)
        last = commits[-1]
        self._parts["definition"] = last.definition
        self._parts["meta"] = orjson.dumps({"clock_ms": last.clock_ms, "positions": last.positions, "layout": LAYOUT})

    @property
    def dropped(self) -> list[str]:
        """Tables that lose all their rows before anything else."""
        return [name for name, table in self._tables.items() if table.dropped]

    @property
    def written(self) -> dict[str, int]:
        """How many rows of each table are written at most."""
        return {
            name: sum(block.entries.size for _, block in table.blocks)
            for name, table in self._tables.items()
            if table.blocks
        }

    def rows(self, keys: Keys, sizes: dict[str, Size]) -> Iterator[Change]:
        """What happens to the rows, once there is room for them."""
        for name, table in sorted(self._tables.items()):
            yield from _row_changes(name, table, keys, sizes.get(name, Size()).hashes)

    def changes(self, keys: Keys, sizes: dict[str, Size]) -> Iterator[Change]:
        """What happens to the rows and then to the parts."""
        yield from self.rows(keys, sizes)
        for name, data in self._parts.items():
            yield part_change(keys.parts, name, data)


def _row_changes(name: str, table: _Table, keys: Keys, hashes: int) -> Iterator[Change]:
    """The last thing that happened to each id."""
    parts = [block.entries["id"].astype(np.int64) for _, block in table.blocks] + [gone for _, gone in table.gone]
    if not parts:
        return
    lengths = [part.size for part in parts]
    # an id may be gone and come back in one commit, so a removal is older than a row of its own commit
    order = np.repeat([2 * o + 1 for o, _ in table.blocks] + [2 * o for o, _ in table.gone], lengths)
    source = np.repeat(np.arange(len(parts)), lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    ids = np.concatenate(parts)
    cold = np.zeros(ids.size, dtype=np.bool_)
    at = 0
    for _, block in table.blocks:
        cold[at : at + block.entries.size] = block.cold
        at += block.entries.size
    ids[cold] = 0
    ranked = np.lexsort((order, ids, cold))
    last = np.ones(ranked.size, dtype=np.bool_)
    last[:-1] = (ids[ranked][1:] != ids[ranked][:-1]) | (cold[ranked][1:] != cold[ranked][:-1])
    chosen = ranked[last]
    for row in chosen[cold[chosen]].tolist():
        data = COLD_FIELD + _records(table.blocks[source[row]][1], place[row : row + 1]).tobytes()[ID_BYTES:]
        record = np.frombuffer(data, dtype=f"V{len(data)}")
        yield from record_changes(keys, name, np.zeros(1, np.int64), record, len(COLD_FIELD))
    chosen = chosen[~cold[chosen]]
    by_width: dict[int, list[NDArray[np.void]]] = {}
    for number, (_, block) in enumerate(table.blocks):
        some = _records(block, place[chosen[source[chosen] == number]])
        by_width.setdefault(some.itemsize, []).append(some)
    for same in by_width.values():
        if not (records := np.concatenate(same)).size:
            continue
        names = records.view(np.uint8).reshape(records.size, -1)[:, :ID_BYTES]
        places = hash_of(np.ascontiguousarray(names).view("<i8").ravel(), hashes)
        yield from record_changes(keys, name, places, records, ID_BYTES)
    gone = ids[chosen[source[chosen] >= len(table.blocks)]].astype("<i8")
    yield from record_changes(keys, name, hash_of(gone, hashes), gone.view(f"V{ID_BYTES}"), ID_BYTES)


def _records(block: Block, rows: NDArray[np.int64]) -> NDArray[np.void]:
    """Some of a block's rows as bytes, each behind its id."""
    return np.ascontiguousarray(block.entries[rows]).view(f"V{block.entries.itemsize}")


def grow(log: CommitLog, fold: Fold, send: Send) -> dict[str, Size]:
    """Removes the rows of dropped tables, and adds hashes where the rows of a fold need them.

    Args:
        log: Of the shard.
        fold: What will be written.
        send: Makes some changes by one command. They have taken effect when it returns.

    Returns:
        The size of every table.
    """
    sizes = read_sizes(log)
    for name in fold.dropped:
        if name in sizes:
            drop(log.keys, name, sizes.pop(name), send)
    for name, rows in fold.written.items():
        size = sizes.get(name, Size())
        wanted = size.wanted(rows)
        if not size.rows and wanted > size.hashes:
            send([size_change(name, wanted)])
            size = Size(wanted, 0)
        while size.hashes < wanted:
            splits = next_split(size.hashes, wanted, _SPLITS)
            _split(log, name, size.hashes, splits, send)
            size = Size(size.hashes + len(splits), size.rows)
        sizes[name] = size
    return sizes


def drop(keys: Keys, table: str, size: Size, send: Send) -> None:
    """Removes a table with all its rows, and with what a split that was broken off has copied."""
    for some in batches(unlink_changes(keys, table, range(size.hashes + _SPLITS))):
        send(some)
    send([size_change(table, 0)])


def _split(log: CommitLog, table: str, hashes: int, splits: range, send: Send) -> None:
    """Adds hashes. Their rows are copied first; then, at once, they are gone from where they were and count here."""
    after = hashes + len(splits)
    copies: list[Change] = []
    removals: list[Change] = []
    for where, fields, rows in read_hashes(log, table, splits):
        is_id = np.array([len(name) == ID_BYTES for name in fields])
        ids = np.zeros(len(fields), dtype=np.int64)
        ids[is_id] = np.frombuffer(b"".join(name for name in fields if len(name) == ID_BYTES), dtype="<i8")
        places = hash_of(ids, after)
        moving = np.flatnonzero(is_id & (places != where))
        lengths = np.array([len(row) for row in rows])
        for length in np.unique(lengths[moving]).tolist():
            some = moving[lengths[moving] == length]
            data = b"".join(fields[i] + rows[i] for i in some.tolist())
            copies += record_changes(
                log.keys, table, places[some], np.frombuffer(data, dtype=f"V{ID_BYTES + length}"), ID_BYTES
            )
        names = ids[moving].astype("<i8").view(f"V{ID_BYTES}")
        removals += record_changes(log.keys, table, where[moving], names, ID_BYTES)
    *earlier, final = batches([*unlink_changes(log.keys, table, range(hashes, after)), *copies])
    for some_changes in earlier:
        send(some_changes)
    send([*final, *removals, size_change(table, after)])
