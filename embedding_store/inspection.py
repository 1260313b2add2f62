"""Looking into a shard: what is where, and whether every invariant holds. Reads rows and log; changes nothing."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_store.bootstrap import current_definition, stored_schema
from embedding_store.codec import COLD_FIELD, FILTER, ID_BYTES, decode_rows
from embedding_store.commit import ROOT, decode
from embedding_store.errors import BadBytes, LogTrimmed
from embedding_store.ids import feature_id, render_id
from embedding_store.invariants import row_faults
from embedding_store.layout import Size, hash_of
from embedding_store.log import CommitLog
from embedding_store.one_row import read_one_row
from embedding_store.proposal import read_proposed
from embedding_store.redis_client import translated
from embedding_store.rows import read_sizes, scan_rows
from embedding_store.settings import TableSettings, format_duration
from embedding_store.shard import Shard
from embedding_store.shown import shown
from embedding_store.stored import StoredShard, read_stored

_ASKED = 10_000


def describe(log: CommitLog, directory: Path | None = None) -> dict[str, Any]:
    """What a store holds, for people and for JSON.

    Args:
        log: Of the shard.
        directory: Where a temporary file lies; it takes some 20 bytes a row.

    Returns:
        ``tables``: of each its rows, bytes in Redis, widths (rows that keep so many numbers of the vector), admission
        and expiry; ``commit``, ``offsets`` by topic and partition, ``clock_ms``; ``log``; ``filter``: the admission
        filter's bytes, the share of its counters in use and its window, None where no table counts sightings;
        ``proposed``: by table, the plan that a search on the live stream proposes, with its figures.
    """
    with read_stored(log, directory=directory, thin=True) as shard:
        if shard is None:
            return {
                "tables": {},
                "commit": 0,
                "offsets": {},
                "clock_ms": 0,
                "log": {"entries": 0, "bytes": 0, "unfolded": 0},
                "filter": None,
                "proposed": {},
            }
        tables = {table.name: _described(log, shard, table) for table in shard.shard.tables}
    state = log.state()
    with translated():
        entries = int(log.client.xlen(log.keys.log))
        log_bytes = int(log.client.memory_usage(log.keys.log, samples=0) or 0)
    return {
        "tables": tables,
        "commit": shard.id.seq,
        "offsets": {topic: position["offsets"] for topic, position in shard.positions.items()},  # type: ignore[index]  # positions are objects by their codec
        "clock_ms": shard.shard.clock_ms,
        "log": {"entries": entries, "bytes": log_bytes, "unfolded": state.head.seq - state.mark.seq},
        "filter": _described_filter(shard.shard),
        "proposed": read_proposed(log),
    }


def _described(log: CommitLog, shard: StoredShard, table: TableSettings) -> dict[str, Any]:
    rows, widths, known = 0, Counter[int](), shard.shard.layouts.known
    for headers in shard.headers(table):
        age_ms = shard.shard.clock_ms - headers["last_seen"]
        layouts = headers["layout"] if table.expire_after is None else headers["layout"][age_ms <= table.expire_after]
        layouts = layouts[layouts < len(known)]  # as the shard takes them: `verify` tells of others
        for layout, count in zip(*np.unique(layouts, return_counts=True), strict=True):
            widths[len(known[layout][1])] += int(count)
        rows += layouts.size
    return {
        "rows": rows,
        "bytes": _bytes_of(log, table.name),
        "widths": {str(width): count for width, count in sorted(widths.items())},
        "admission": {"admit_after": table.admit_after, "rule": table.admission},
        "expire_after": "none" if table.expire_after is None else format_duration(table.expire_after),
    }


def _described_filter(shard: Shard) -> dict[str, Any] | None:
    if not any(table.admit_after > 1 and table.admission == "count" for table in shard.tables):
        return None
    entries = shard.filter.arrays.entries
    return {
        "bytes": shard.filter.nbytes,
        "fill": round(np.count_nonzero(entries) / entries.size, 6),
        "window": format_duration(shard.filter.window_ms),
    }


def _bytes_of(log: CommitLog, table: str) -> int:
    """What Redis says the hashes of a table take; of very many hashes, a part is asked and stands for all."""
    hashes = read_sizes(log).get(table, Size()).hashes
    asked = log.keys.row_names(table, np.arange(0, hashes, max(1, hashes // _ASKED)))
    with translated():
        pipe = log.client.pipeline(transaction=False)
        for key in asked:
            pipe.memory_usage(key, samples=0)
        found = sum(int(size or 0) for size in pipe.execute())
    return found * hashes // len(asked) if asked else 0


def inspect_row(log: CommitLog, table: str, value: str) -> dict[str, Any] | None:
    """One row as of the last commit, or None if the id has none.

    Args:
        log: Of the shard.
        table: Its name.
        value: As it stands in events; empty for the cold row.

    Raises:
        KeyError: If there is no such table.
    """
    key = feature_id(value) if value else None
    snapshot = read_one_row(log, table, key)
    if snapshot is None or table not in snapshot.shard.number:
        raise KeyError(table)
    shard = snapshot.shard
    number = shard.number[table]
    if key is None:
        rows = np.array([number])
    elif not (rows := shard.live_rows(number)).size:
        return None
    entry = shard.blocks(rows)[0].entries[0]
    return {
        "table": table,
        "id": "cold" if key is None else render_id(key),
        "commit": int(entry["seq"]),
        "last_seen_ms": int(entry["last_seen"]),
        "count": int(entry["count"]),
        **shown(shard.tables[number], entry["values"].tolist()),
        "state": [float(v) for v in entry["state"]],
    }


@dataclass(slots=True)
class Verdict:
    """What `verify` found.

    Attributes:
        checked: How many of what was looked at.
        faults: One sentence each; none if every invariant holds.
    """

    checked: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def verify(log: CommitLog, directory: Path | None = None) -> Verdict:
    """Checks the log's chain, every stored row, and that rows and log together make one shard.

    Args:
        log: Of the shard.
        directory: Where a temporary file lies; it takes some 20 bytes a row.
    """
    verdict = Verdict()
    state = log.state()
    if state.empty:
        if state.mark_text != str(ROOT):
            verdict.faults.append("a load was broken off: run `dolmen store load` again")
        return verdict
    verdict.faults += _log_faults(log, verdict)
    try:
        definition = current_definition(log)
    except BadBytes:
        return verdict  # the log's faults name the entry
    if not definition:
        verdict.faults.append("the last commit's definition is gone")
        return verdict
    with ExitStack() as stack:
        try:
            shard = stack.enter_context(read_stored(log, directory=directory, thin=True))
        except (BadBytes, LogTrimmed) as error:
            verdict.faults.append(str(error))
            shard = None
        for table in stored_schema(definition).tables:
            if shard is None or table.name not in shard.dropped:
                verdict.faults += _table_faults(log, verdict, table, shard)
        verdict.faults += _table_faults(log, verdict, None, shard)
        if shard is not None:
            verdict.faults += _shard_faults(shard)
    return verdict


def _table_faults(
    log: CommitLog, verdict: Verdict, table: TableSettings | None, shard: StoredShard | None
) -> Iterator[str]:
    """Faults of a table's stored rows, or of the filter's pages where it is None."""
    name = table.name if table else FILTER
    rows, mark = 0, log.state().mark_text
    size = read_sizes(log).get(name, Size())
    found: dict[str, None] = {}  # of each sentence one, however many rows it is true of
    for places, fields, values in scan_rows(log, name):
        rows += len(fields)
        found |= dict.fromkeys(_place_faults(log, name, size, places, fields))
        try:
            blocks = decode_rows(table, fields, values)
        except BadBytes as error:
            found[str(error)] = None
            continue
        if table is not None:
            layouts = shard.shard.layouts if shard else None
            found |= dict.fromkeys(fault for block in blocks for fault in row_faults(table, block, layouts))
    yield from found
    if rows != size.rows and log.state().mark_text == mark:
        yield f"table {name!r}: {rows} rows are stored, {size.rows} were counted"
    verdict.checked[f"rows of {name}" if table else "pages of the filter"] = rows


def _log_faults(log: CommitLog, verdict: Verdict) -> Iterator[str]:
    state = log.state()
    after, previous = ROOT, None
    while entries := log.read(after):
        for entry in entries:
            if previous is not None and entry.prev != previous:
                yield f"log: commit {entry.id} follows {entry.prev}, not {previous}"
            try:
                decode(entry.data)
            except BadBytes as error:
                yield f"log: commit {entry.id}: {error}"
            previous = entry.id
        after = entries[-1].id
        verdict.checked["log entries"] = verdict.checked.get("log entries", 0) + len(entries)
    state = log.state()
    last = previous or ROOT
    if last < state.head:
        yield f"log: it ends at {last}, but the last commit is {state.head}"
    if state.mark > state.head:
        yield f"rows: they are folded to {state.mark}, past the last commit {state.head}"


def _place_faults(
    log: CommitLog, table: str, size: Size, places: NDArray[np.int64], fields: list[bytes]
) -> Iterator[str]:
    """Rows under names that are no ids, and rows in another hash than their id says."""
    is_id = np.array([len(name) == ID_BYTES for name in fields])
    bad_names = sum(name != COLD_FIELD for name in fields) - int(is_id.sum())
    if bad_names:
        yield f"table {table!r}: {bad_names} fields are no ids"
    ids = np.frombuffer(b"".join(name for name in fields if len(name) == ID_BYTES), dtype="<i8")
    wrong = hash_of(ids, size.hashes) != places[is_id]
    if wrong.any():  # perhaps the table has grown meanwhile
        wrong &= hash_of(ids, read_sizes(log).get(table, Size()).hashes) != places[is_id]
    if wrong.any():
        yield f"table {table!r}: {int(wrong.sum())} rows lie in another hash than their id says"


def _shard_faults(shard: StoredShard) -> Iterator[str]:
    """What is wrong with rows and log together."""
    for table in shard.shard.tables:
        found: dict[str, None] = {}
        for headers in shard.headers(table):
            if not headers.size:
                continue
            if int(headers["last_seen"].max()) > shard.shard.clock_ms:
                found["a row was seen later than the clock says"] = None
            if int(headers["seq"].max()) > shard.id.seq:
                found["a row is newer than the last commit"] = None
            if np.unique(headers["id"]).size != headers.size:
                found["an id has two rows"] = None
        yield from (f"table {table.name!r}: {fault}" for fault in found)
