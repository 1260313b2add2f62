"""The whole of a shard from Redis: the rows, then the entries past the mark."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import orjson

from embedding_store.ahead import Ahead
from embedding_store.codec import FILTER, decode_rows
from embedding_store.commit import ROOT, Commit, CommitId, decode
from embedding_store.errors import BadBytes, LogTrimmed, NotEmpty
from embedding_store.layout import LAYOUT
from embedding_store.log import CommitLog, Entry
from embedding_store.redis_client import translated
from embedding_store.rows import read_cold_row, scan_rows
from embedding_store.serving import Codec
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.shard import Shard

_ATTEMPTS = 20
_AHEAD_BYTES = 64 << 20
_AHEAD_S = 0.25
"""How often the log is read ahead while rows are read."""


@dataclass(slots=True)
class Snapshot:
    """A shard as of one commit.

    Attributes:
        shard: Its rows.
        id: The commit; ROOT for an empty store.
        definition: JSON of whoever committed; empty for an empty store.
        positions: Consumed Kafka offsets, as committed.
        parts: Opaque parts by name.
        tail_bytes: Of each entry past the mark, so that the owner knows how much there is to fold.
        dropped: Tables that were dropped past the mark.
    """

    shard: Shard
    id: CommitId = ROOT
    definition: bytes = b""
    positions: dict[str, object] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    tail_bytes: list[tuple[CommitId, int]] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)

    def apply(self, commit_id: CommitId, commit: Commit) -> None:
        """Goes one commit on."""
        shard = self.shard
        shard.seq = commit_id.seq
        if "layouts" in commit.parts:
            shard.load_layouts(commit.parts["layouts"])
        self.dropped.update(commit.dropped)
        for name in commit.dropped:
            if name in shard.number:
                shard.clear(shard.number[name])
        for name, ids in commit.gone.items():
            if name in shard.number:
                shard.remove(shard.number[name], ids)
            elif name == FILTER:
                shard.filter.remove(ids)
        for block in commit.blocks:
            shard.apply(block)
        shard.clock_ms = max(shard.clock_ms, commit.clock_ms)
        self.id = commit_id
        self.definition = commit.definition
        self.positions = dict(commit.positions)
        self.parts.update(commit.parts)

    def read_rows(self, log: CommitLog, table: str) -> Iterator[None]:
        """Takes the stored rows of a table, or the filter's pages, some at each step.

        Of a shard that holds but some rows it is the cold row.

        Raises:
            BadBytes: If a row cannot be read.
        """
        settings = None if table == FILTER else self.shard.tables[self.shard.number[table]]
        for _, fields, rows in scan_rows(log, table) if self.shard.is_whole else read_cold_row(log, table):
            for block in decode_rows(settings, fields, rows):
                self.shard.apply(block)
            yield


S = TypeVar("S", bound=Snapshot)


class Schema(NamedTuple):
    """What a shard is made for.

    Attributes:
        tables: In their order.
        seed: Of the rows' initial values.
        admission: The filter of tables that count sightings.
    """

    tables: tuple[TableSettings, ...]
    seed: int
    admission: AdmissionSettings = AdmissionSettings()


def stored_schema(definition: bytes) -> Schema:
    """What a definition says the store holds.

    The store reads ``tables``, ``retired``, ``seed`` and ``admission`` of the definition's JSON; the rest is its
    owner's.
    """
    value = orjson.loads(definition)
    tables = [TableSettings.model_validate(table) for table in [*value["tables"], *value.get("retired", ())]]
    admission = AdmissionSettings.model_validate(value.get("admission", {}))
    return Schema(tuple(tables), int(value["seed"]), admission)


def current_definition(log: CommitLog) -> bytes:
    """The definition of the last commit; empty for an empty store."""
    return _current(log)[0]


def current_positions(log: CommitLog) -> Mapping[str, Any] | None:
    """Consumed offsets as the last commit carries them; None for an empty store."""
    last = log.last()
    if last is not None:
        return decode(last.data).positions
    with translated():
        meta = log.client.hget(log.keys.parts, "meta")
    return orjson.loads(meta).get("positions", {}) if meta else None


def _current(log: CommitLog) -> tuple[bytes, bytes]:
    """Definition and layouts of the last commit."""
    last = log.last()
    if last is not None:
        commit = decode(last.data)
        return commit.definition, commit.parts.get("layouts", b"")
    with translated():
        definition, layouts = log.client.hmget(log.keys.parts, ["definition", "layouts"])
    return definition or b"", layouts or b""


MakeShard = Callable[[Schema, bytes], Shard]
"""An empty shard for a schema and the layouts that are stored."""


def whole(learning: bool, codec: Codec = "float32") -> MakeShard:
    """Shards that hold every row."""
    return lambda schema, layouts: Shard(
        schema.tables, schema.seed, learning, schema.admission, layouts, codec=codec
    )  # fmt: skip


def bootstrap(
    log: CommitLog,
    learning: bool,
    lease_ms: int = 30_000,
    define: Callable[[bytes], Schema] = stored_schema,
    make: MakeShard | None = None,
    ahead_bytes: int = _AHEAD_BYTES,
    heard: Callable[[CommitId], None] = lambda _: None,
) -> Snapshot | None:
    """Reads a shard, up to the last commit. What is committed meanwhile is read ahead, so that the log can be trimmed.

    Args:
        log: Of the shard.
        learning: Whether the rows keep their optimizer state.
        lease_ms: How long trimming is held back after the last sign of life.
        define: What to hold, from the stored definition.
        make: The shard to fill; default: one that holds every row.
        ahead_bytes: Most that is read ahead; what comes then is held in the log by the lease.
        heard: Told of the last commit that is known of, now and again.

    Returns:
        The shard, or None for an empty store.

    Raises:
        LogTrimmed: If the log was trimmed under the reader again and again.
        BadBytes: If something stored cannot be read.
        NotEmpty: If a load was broken off here.
        StoreUnavailable: If Redis did not answer.
    """
    return read_shard(log, learning, lease_ms, define, Snapshot, make, ahead_bytes, heard)


def read_shard(
    log: CommitLog,
    learning: bool,
    lease_ms: int,
    define: Callable[[bytes], Schema],
    make: Callable[[Shard, CommitId], S],
    make_shard: MakeShard | None = None,
    ahead_bytes: int = _AHEAD_BYTES,
    heard: Callable[[CommitId], None] = lambda _: None,
) -> S | None:
    """As :func:`bootstrap`; `make` gives what takes rows and commits, from an empty shard and the mark."""
    for _ in range(_ATTEMPTS):
        reader = f"bootstrap-{secrets.token_hex(8)}"
        mark, leased = log.lease(reader, lease_ms), time.monotonic()
        try:
            definition, layouts = _current(log)
            if not definition:
                if _is_empty(log):
                    return None
                continue
            shard = (make_shard or whole(learning))(define(definition), layouts)
            snapshot = make(shard, mark)
            ahead = Ahead(log, mark, ahead_bytes)
            _read_parts(log, snapshot)
            faults: dict[str, BadBytes] = {}
            for name in [*shard.number, *([FILTER] if learning else [])]:
                try:
                    for _ in snapshot.read_rows(log, name):
                        if time.monotonic() - leased > min(_AHEAD_S, lease_ms / 3000):
                            ahead.read()
                            log.lease(reader, lease_ms, ahead.at)
                            heard(ahead.at)
                            leased = time.monotonic()
                except BadBytes as error:
                    faults[name] = error  # none if these rows are of a table that was dropped, and made anew since
            catch_up(log, snapshot, ahead)
            for name, fault in faults.items():
                if name not in snapshot.dropped:
                    raise fault
            if learning and "filter" in snapshot.parts:
                shard.filter.load_state(snapshot.parts["filter"])
            if snapshot.definition != definition:
                continue  # another one was committed meanwhile, perhaps with other tables
            snapshot.shard.seq = snapshot.id.seq + 1
            return snapshot
        except LogTrimmed:
            continue
        finally:
            log.release(reader)
    raise LogTrimmed(
        f"{log.keys.log} was trimmed while it was read, {_ATTEMPTS} times; raise store.log_bytes or store.lease"
    )


def _is_empty(log: CommitLog) -> bool:
    """Whether nothing was ever committed; False if the first commit has just come."""
    state = log.state()
    if state.empty and state.mark_text == str(ROOT):
        return True
    if state.empty:
        raise NotEmpty(f"{log.keys.state}: a load is under way or was broken off here; run `dolmen store load` again")
    if not current_definition(log):
        raise BadBytes(f"{log.keys.state} says that commits were made, but their rows and log are gone")
    return False


def _read_parts(log: CommitLog, snapshot: Snapshot) -> None:
    with translated():
        parts = {name.decode(): value for name, value in log.client.hgetall(log.keys.parts).items()}
    meta = orjson.loads(parts.pop("meta", b"{}"))
    if meta and meta.get("layout") != LAYOUT:
        raise BadBytes(
            f"{log.keys.parts}: the rows lie in Redis as another version wrote them; "
            "dump them with that version, then load the dump into an empty store"
        )
    snapshot.definition = parts.pop("definition", b"")
    snapshot.positions = meta.get("positions", {})
    snapshot.shard.clock_ms = meta.get("clock_ms", 0)
    snapshot.parts = parts


def catch_up(log: CommitLog, snapshot: Snapshot, ahead: Ahead | None = None) -> None:
    """Applies every entry past the snapshot's commit, first those that were read ahead.

    Raises:
        LogTrimmed: If an entry in between is gone.
    """
    for entry in ahead.entries() if ahead else ():
        _take(snapshot, entry)
    while True:
        entries = log.read(snapshot.id)
        for entry in entries:
            if entry.prev != snapshot.id:
                raise LogTrimmed(f"commit {entry.id} follows {entry.prev}, not {snapshot.id}")
            _take(snapshot, entry)
        if not entries:
            if log.state().head != snapshot.id:
                if log.read(snapshot.id, count=1):
                    continue
                raise LogTrimmed(f"the last commit is {log.state().head}, but nothing follows {snapshot.id}")
            return


def _take(snapshot: Snapshot, entry: Entry) -> None:
    snapshot.apply(entry.id, decode(entry.data))
    snapshot.tail_bytes.append((entry.id, len(entry.data)))
