"""Removing a whole table from a store, or what it knows of Kafka."""

import orjson

from embedding_store.bootstrap import bootstrap
from embedding_store.commit import Commit, CommitId, encode
from embedding_store.log import CommitLog, epoch_number
from embedding_store.proposal import TAKEOVERS, read_takeovers, withdraw


def drop_table(log: CommitLog, name: str) -> CommitId:
    """Removes a retired table with all its rows and its plan, by a commit of its own. Fences the trainer that may run.

    Raises:
        KeyError: If the store holds no such table.
    """
    epoch = log.raise_epoch()
    snapshot = bootstrap(log, learning=True)
    if snapshot is None or name not in snapshot.shard.number:
        raise KeyError(name)
    value = orjson.loads(snapshot.definition)
    value["retired"] = [table for table in value.get("retired", ()) if table["name"] != name]
    value["tables"] = [table for table in value["tables"] if table["name"] != name]
    definition = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    new = CommitId(snapshot.id.seq + 1, epoch_number(epoch))
    snapshot.shard.layouts.plans.pop(name, None)
    parts = {**snapshot.parts, **snapshot.shard.parts()}
    if TAKEOVERS in parts:
        taken = {table: offset for table, offset in read_takeovers(parts[TAKEOVERS]).items() if table != name}
        parts[TAKEOVERS] = orjson.dumps(taken, option=orjson.OPT_SORT_KEYS)
    commit = Commit(snapshot.shard.clock_ms, definition, snapshot.positions, parts=parts, dropped=(name,))
    log.append(epoch, snapshot.id, new, encode(commit))
    withdraw(log, name)
    return new


def forget_positions(log: CommitLog) -> CommitId:
    """Removes the consumed offsets, by a commit of its own: the next trainer begins where it is configured to.

    Fences the trainer that may run.

    Raises:
        ValueError: If the store is empty.
    """
    epoch = log.raise_epoch()
    snapshot = bootstrap(log, learning=True)
    if snapshot is None:
        raise ValueError("the store is empty")
    new = CommitId(snapshot.id.seq + 1, epoch_number(epoch))
    parts = {**snapshot.parts, **snapshot.shard.parts()}
    log.append(epoch, snapshot.id, new, encode(Commit(snapshot.shard.clock_ms, snapshot.definition, {}, parts=parts)))
    return new
