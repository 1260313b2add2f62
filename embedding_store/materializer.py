"""Folds the commit log into the rows, in small atomic chunks, behind the owner's back.

Several commits are folded at once: of a row that changed in all of them only the last bytes are written. Each chunk
moves the mark with it and is refused once the epoch or the mark is another, so a stale materializer changes nothing.
A fold that was broken off is begun again from the commit before it: a chunk sets rows to what they are at its target
or later, so repeating it is harmless.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from embedding_store.codec import COLD_FIELD, ID_BYTES, Block
from embedding_store.commit import Commit, CommitId, decode
from embedding_store.errors import LogTrimmed
from embedding_store.keys import Keys, buckets_of
from embedding_store.log import CommitLog, Entry, refusal

CHUNK_ROWS = 2000

Group = tuple[str, list[bytes] | None, list[bytes]]


@dataclass(slots=True)
class _Table:
    """What some commits did to one table."""

    dropped: bool = False
    blocks: list[tuple[int, Block]] = field(default_factory=list)
    gone: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)


class Fold:
    """Several commits in a row as one change of the rows.

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
        self._parts["meta"] = orjson.dumps({"clock_ms": last.clock_ms, "positions": last.positions})

    def chunks(self, keys: Keys) -> Iterator[list[Group]]:
        """Groups for :meth:`CommitLog.fold`, at most CHUNK_ROWS rows at a time; the parts come last."""
        for name, table in sorted(self._tables.items()):
            if table.dropped:
                yield [(key, None, []) for key in keys.all_rows(name)]
            yield from _table_chunks(name, table, keys)
        yield [(keys.parts, [], [piece for name, data in self._parts.items() for piece in (name.encode(), data)])]


def _table_chunks(name: str, table: _Table, keys: Keys) -> Iterator[list[Group]]:
    """The last thing that happened to each id, grouped by bucket."""
    sets: dict[int, list[bytes]] = {}
    dels: dict[int, list[bytes]] = {}
    waiting = 0
    ids = [block.entries["id"].astype(np.int64) for _, block in table.blocks] + [gone for _, gone in table.gone]
    if not ids:
        return
    lengths = [part.size for part in ids]
    # an id may be gone and come back in one commit, so a removal is older than a row of its own commit
    order = np.repeat([2 * o + 1 for o, _ in table.blocks] + [2 * o for o, _ in table.gone], lengths)
    source = np.repeat(np.arange(len(ids)), lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    every = np.concatenate(ids)
    cold = np.concatenate(
        [block.cold for _, block in table.blocks] + [np.zeros(g.size, np.bool_) for _, g in table.gone]
    )
    ranked = np.lexsort((order, every, cold))
    last = np.ones(ranked.size, dtype=np.bool_)
    last[:-1] = (every[ranked][1:] != every[ranked][:-1]) | (cold[ranked][1:] != cold[ranked][:-1])
    chosen = ranked[last]
    bucket = np.where(cold, 0, buckets_of(every))
    chosen = chosen[np.argsort(bucket[chosen], kind="stable")]
    rows = [block.rows() for _, block in table.blocks]
    raw = every.tobytes()
    for i, b, s, p, is_cold in zip(
        chosen.tolist(), bucket[chosen].tolist(), source[chosen].tolist(), place[chosen].tolist(),
        cold[chosen].tolist(),
        strict=True,
    ):  # fmt: skip
        name_of_row = COLD_FIELD if is_cold else raw[i * ID_BYTES : (i + 1) * ID_BYTES]
        if s < len(rows):
            sets.setdefault(b, []).extend((name_of_row, rows[s][p]))
        else:
            dels.setdefault(b, []).append(name_of_row)
        waiting += 1
        if waiting == CHUNK_ROWS:
            yield _groups(name, sets, dels, keys)
            sets, dels, waiting = {}, {}, 0
    if waiting:
        yield _groups(name, sets, dels, keys)


def _groups(name: str, sets: dict[int, list[bytes]], dels: dict[int, list[bytes]], keys: Keys) -> list[Group]:
    return [(keys.rows(name, b), dels.get(b, []), sets.get(b, [])) for b in sorted(sets.keys() | dels.keys())]


class Materializer:
    """Folds and trims one shard's log for its owner.

    Args:
        log: Of the shard.
        epoch: The owner's.
        keep_bytes: How much folded log stays for readers that lag.
    """

    def __init__(self, log: CommitLog, epoch: str, keep_bytes: int) -> None:
        self._log = log
        self._epoch = epoch
        self._keep_bytes = keep_bytes
        state = log.state()
        self.mark = state.mark
        self._mark_text = state.mark_text
        self._folded: list[tuple[CommitId, int]] = []

    def fold(self, max_bytes: int = 32 << 20) -> int:
        """Folds what is past the mark, up to so many bytes of entries.

        Returns:
            Bytes of the entries folded; 0 if there were none.

        Raises:
            Fenced: If another owner has taken the shard.
            LogTrimmed: If the log does not follow on the mark.
            StoreUnavailable: If Redis did not answer. Call again.
        """
        self._sync()
        entries: list[Entry] = []
        size, after = 0, self.mark
        while size < max_bytes:
            found = self._log.read(after, count=8)
            if not found:
                break
            for entry in found:
                if entry.prev != after:
                    raise LogTrimmed(f"commit {entry.id} follows {entry.prev}, not {after}")
                after = entry.id
                size += len(entry.data)
            entries += found
        if not entries:
            return 0
        change = list(Fold([decode(entry.data) for entry in entries]).chunks(self._log.keys))
        for number, groups in enumerate(change, 1):
            new = str(after) if number == len(change) else f"{self.mark}>{after}#{number}"
            self._log.fold(self._epoch, self._mark_text, new, groups)
            self._mark_text = new
        self.mark = after
        self._folded += [(entry.id, len(entry.data)) for entry in entries]
        self._trim()
        return size

    def _sync(self) -> None:
        """Takes the mark as it stands: after an answer that was lost, it is ahead of what this materializer knows."""
        state = self._log.state()
        if state.epoch != self._epoch:
            raise refusal(self._log.keys, self._epoch, state.epoch, state.head, self.mark)
        self.mark, self._mark_text = state.mark, state.mark_text

    def _trim(self) -> None:
        kept = sum(size for _, size in self._folded)
        drop = 0
        while drop < len(self._folded) - 1 and kept > self._keep_bytes:
            kept -= self._folded[drop][1]
            drop += 1
        if drop:
            self._log.trim(self._epoch, self._folded[drop][0])
            del self._folded[:drop]
