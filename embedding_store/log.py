"""The commit log in Redis: fenced append, read, trim. Each change is one atomic script."""

import secrets
from dataclasses import dataclass

import redis

from embedding_store.change import FOLD, Change
from embedding_store.commit import ROOT, CommitId
from embedding_store.errors import Fenced, LineageBroken, StoreEmptied, StoreError
from embedding_store.keys import Keys
from embedding_store.redis_client import Client, translated

_RAISE = """
local e = redis.call('HGET', KEYS[1], 'epoch')
local n = e and tonumber(string.match(e, '^%d+')) or 0
local new = string.format('%d:%s', n + 1, ARGV[1])
redis.call('HSET', KEYS[1], 'epoch', new)
return new
"""
_APPEND = """
local s = redis.call('HMGET', KEYS[1], 'epoch', 'head')
local head = s[2] or '0-0'
if s[1] ~= ARGV[1] then return {'epoch', s[1] or '', head} end
if head ~= ARGV[2] then return {'head', s[1], head} end
redis.call('XADD', KEYS[2], ARGV[3], 'prev', ARGV[2], 'commit', ARGV[4])
redis.call('HSET', KEYS[1], 'head', ARGV[3])
return {'ok', s[1], ARGV[3]}
"""
_TRIM = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local seq, epoch = string.match(ARGV[2], '^(%d+)-(%d+)$')
seq, epoch = tonumber(seq), tonumber(epoch)
local leases = redis.call('HGETALL', KEYS[3])
for i = 1, #leases, 2 do
  local s, e, till = string.match(leases[i + 1], '^(%d+)-(%d+)|(%d+)$')
  if tonumber(till) < now then
    redis.call('HDEL', KEYS[3], leases[i])
  elseif tonumber(s) < seq then
    seq, epoch = tonumber(s), tonumber(e)
  end
end
local oldest = string.format('%d-%d', seq, epoch)
redis.call('XTRIM', KEYS[2], 'MINID', oldest)
return oldest
"""
_LEASE = """
local t = redis.call('TIME')
local till = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[2])
local mark = ARGV[3] or redis.call('HGET', KEYS[1], 'mark') or '0-0'
local seen = string.match(mark, '^%d+-%d+')
redis.call('HSET', KEYS[2], ARGV[1], string.format('%s|%d', seen, till))
return seen
"""
_FETCH = """
local rows = {}
for i = 2, #KEYS do
  rows[i - 1] = redis.call('HGET', KEYS[i], string.sub(ARGV[1], 8 * i - 15, 8 * i - 8))
end
return {redis.call('HMGET', KEYS[1], unpack(ARGV, 2)), rows}
"""


@dataclass(frozen=True, slots=True)
class State:
    """Where a shard stands.

    Attributes:
        epoch: The owner's number and token, or None if there never was one.
        head: The last commit.
        mark: The last commit that is wholly in the rows.
        mark_text: As stored; it also says how much of a later fold is done.
    """

    epoch: str | None
    head: CommitId
    mark: CommitId
    mark_text: str

    @property
    def empty(self) -> bool:
        """Whether nothing was ever committed."""
        return self.head == ROOT


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry: a commit's id, its predecessor's, its bytes."""

    id: CommitId
    prev: CommitId
    data: bytes


def epoch_number(epoch: str) -> int:
    """The number in an epoch such as ``"3:9f2c…"``."""
    return int(epoch.partition(":")[0])


def refusal(keys: Keys, mine: str, current: str | None, head: CommitId, last: CommitId) -> StoreError:
    """Why a store did not take what its owner sent.

    Args:
        keys: Of the shard.
        mine: The owner's epoch.
        current: The store's.
        head: The store's last commit.
        last: The last commit as the owner knows it.
    """
    if current and current != mine and epoch_number(current) >= epoch_number(mine):
        return Fenced(f"another trainer owns {keys.state} since epoch {epoch_number(current)}; this one ends")
    if head == ROOT and last != ROOT:
        return StoreEmptied(f"{keys.state}: the store is empty, but commit {last} had been made there")
    return LineageBroken(f"{keys.log}: the last commit is {head}, not {last}; the store went back in time")


class CommitLog:
    """One shard's log.

    Every method may raise StoreUnavailable.

    Args:
        client: Of the Redis that holds the shard. Safe to share between threads.
        keys: The shard's keys.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self._raise = client.register_script(_RAISE)
        self._append = client.register_script(_APPEND)
        self._fold = client.register_script(FOLD)
        self._trim = client.register_script(_TRIM)
        self._lease = client.register_script(_LEASE)
        self._fetch = client.register_script(_FETCH).sha

    def state(self) -> State:
        """Where the shard stands now."""
        with translated():
            epoch, head, mark = self.client.hmget(self.keys.state, ["epoch", "head", "mark"])
        text = (mark or b"0-0").decode()
        return State(
            epoch.decode() if epoch else None,
            CommitId.parse(head) if head else ROOT,
            CommitId.parse(text.partition(">")[0]),
            text,
        )

    def raise_epoch(self) -> str:
        """Makes the caller the shard's owner; every earlier owner is fenced from now on."""
        with translated():
            epoch: bytes = self._raise(keys=[self.keys.state], args=[secrets.token_hex(8)])
        return epoch.decode()

    def append(self, epoch: str, prev: CommitId, new: CommitId, data: bytes) -> None:
        """Appends one commit, if the epoch is current and the predecessor is the last commit.

        May be repeated with the same arguments after StoreUnavailable: it is appended once.

        Raises:
            Fenced: If another owner has taken the shard.
            LineageBroken: If the store's last commit is another one, so the store went back in time.
            StoreEmptied: If nothing is left although there was a predecessor.
        """
        with translated():
            verdict, current, head = (
                part.decode()
                for part in self._append(keys=[self.keys.state, self.keys.log], args=[epoch, str(prev), str(new), data])
            )
        if verdict == "ok" or (verdict == "head" and head == str(new)):
            return
        raise refusal(self.keys, epoch, current, CommitId.parse(head), prev)

    def fold(self, epoch: str, mark: str, new_mark: str, changes: list[Change]) -> None:
        """Changes some rows and the mark in one step.

        Args:
            epoch: The owner's.
            mark: As it must stand now.
            new_mark: As it stands afterwards.
            changes: What happens to which hashes, in their order.

        Raises:
            Fenced: If another owner has taken the shard.
            LineageBroken: If the mark is another.
            StoreEmptied: If nothing is left.
        """
        names = [name for change in changes for name in change.keys]
        words = [word for change in changes for word in change.words()]
        with translated():
            verdict: bytes = self._fold(
                keys=[self.keys.state, self.keys.sizes, *names], args=[epoch, mark, new_mark, *words]
            )
        if verdict != b"ok":
            state = self.state()
            raise refusal(self.keys, epoch, state.epoch, state.head, CommitId.parse(mark.partition(">")[0]))

    def fetch(self, sizes: list[str], names: list[bytes], ids: bytes) -> tuple[list[int], list[bytes | None]]:
        """Reads single rows in one step.

        Args:
            sizes: Fields of the sizes to read along.
            names: The hash of each row.
            ids: The 8-byte field of each row, one after another.

        Returns:
            The sizes, 0 where there is none, and the rows, None where there is none.
        """
        words = [1 + len(names), self.keys.sizes, *names, ids, *sizes]
        with translated():
            try:
                counts, rows = self.client.evalsha_ro(self._fetch, *words)
            except redis.exceptions.NoScriptError:
                self.client.script_load(_FETCH)
                counts, rows = self.client.evalsha_ro(self._fetch, *words)
        return [int(count or 0) for count in counts], rows

    def trim(self, epoch: str, oldest: CommitId) -> CommitId | None:
        """Drops the entries before `oldest`, as far as no lease holds them.

        Returns:
            The oldest commit that had to stay: `oldest`, or one before it; None for an owner that was replaced.
        """
        with translated():
            kept: bytes | None = self._trim(
                keys=[self.keys.state, self.keys.log, self.keys.leases], args=[epoch, str(oldest)]
            )
        return CommitId.parse(kept) if kept else None

    def lease(self, reader: str, ttl_ms: int, at: CommitId | None = None) -> CommitId:
        """Holds trimming back for a while, and says behind which commit.

        Args:
            reader: Who holds it.
            ttl_ms: For how long.
            at: The commit that an earlier lease named, to prolong it; otherwise the mark.
        """
        words = [reader, ttl_ms] if at is None else [reader, ttl_ms, str(at)]
        with translated():
            mark: bytes = self._lease(keys=[self.keys.state, self.keys.leases], args=words)
        return CommitId.parse(mark)

    def release(self, reader: str) -> None:
        """Ends a lease. Idempotent."""
        with translated():
            self.client.hdel(self.keys.leases, reader)

    def read(self, after: CommitId, count: int = 16, block_ms: int | None = None) -> list[Entry]:
        """The next entries after a commit, oldest first; waits for one if asked to.

        Says nothing of gaps: look at `prev`.
        """
        with translated():
            if block_ms is None:
                found = self.client.xrange(self.keys.log, min=f"({after}", count=count)
            else:
                answer = self.client.xread({self.keys.log: str(after)}, count=count, block=block_ms)
                streams = answer.values() if isinstance(answer, dict) else [pair[1] for pair in answer or ()]
                found = [entry for stream in streams for entry in (stream[0] if isinstance(answer, dict) else stream)]
        return [
            Entry(CommitId.parse(i), CommitId.parse(fields[b"prev"]), fields[b"commit"])
            for i, fields in found
            if fields
        ]

    def last(self) -> Entry | None:
        """The last entry."""
        with translated():
            found = self.client.xrevrange(self.keys.log, count=1)
        for i, fields in found:
            return Entry(CommitId.parse(i), CommitId.parse(fields[b"prev"]), fields[b"commit"])
        return None
