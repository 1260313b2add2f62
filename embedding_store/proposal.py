"""Dimension plans that a running trainer is asked to take over.

Proposals wait in Redis beside the shard's log. The owner takes one over at a commit boundary, or, where it names an
offset, before the first batch that begins at that offset or later, so that a replay takes it over at the same place.
A table may have one that waits for the next commit, and one for each of any number of offsets.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from embedding_store.commit import decode
from embedding_store.errors import BadBytes
from embedding_store.log import CommitLog
from embedding_store.plan import TablePlan, parse_plan
from embedding_store.redis_client import translated

TAKEOVERS = "takeovers"
"""The part of a commit that tells the highest offset of a plan that was taken over, by table."""

PROPOSED = "proposed"
"""The part of a commit that tells what a search on the live stream would have: by table, JSON with a ``plan``."""

_DELETE = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan for one table.

    Attributes:
        table: Its name.
        plan: None to go back to full width.
        from_offset: Offset of the first message that it holds for; None: from the next commit on.
    """

    table: str
    plan: TablePlan | None
    from_offset: int | None = None

    @property
    def field(self) -> str:
        """Where it waits: no table's name holds a colon."""
        return self.table if self.from_offset is None else f"{self.table}:{self.from_offset}"

    def to_json(self) -> bytes:
        """What waits there."""
        plan = self.plan
        value = {
            "plan": None if plan is None else {"bounds": plan.bounds, "kept": plan.kept, "matrix": plan.matrix},
            "from_offset": self.from_offset,
        }
        return orjson.dumps(value)


def propose(log: CommitLog, proposal: Proposal) -> None:
    """Leaves a proposal, in place of an earlier one for the same table and offset.

    Raises:
        ValueError: If a plan from this offset or a later one holds already.
    """
    with translated():
        last = log.last()
        data = decode(last.data).parts.get(TAKEOVERS) if last else log.client.hget(log.keys.parts, TAKEOVERS)
        taken = read_takeovers(data or b"").get(proposal.table, -1)
        if proposal.from_offset is not None and proposal.from_offset <= taken:
            raise ValueError(
                f"table {proposal.table!r} has a plan from offset {taken} on already, so one from offset "
                f"{proposal.from_offset} comes too late; name a later offset, or none"
            )
        log.client.hset(log.keys.plans, proposal.field, proposal.to_json())


def withdraw(log: CommitLog, table: str) -> None:
    """Takes a table's proposals back; what was taken over stays. Idempotent."""
    with translated():
        fields = [field for field in log.client.hgetall(log.keys.plans) if field.decode().partition(":")[0] == table]
        if fields:
            log.client.hdel(log.keys.plans, *fields)


def fulfil(log: CommitLog, proposal: Proposal) -> None:
    """Takes one proposal away, unless another is in its place by now. Idempotent."""
    with translated():
        log.client.register_script(_DELETE)(keys=[log.keys.plans], args=[proposal.field, proposal.to_json()])


def read_takeovers(data: bytes) -> dict[str, int]:
    """What the part of a commit says; nothing for no bytes."""
    return {str(table): int(offset) for table, offset in orjson.loads(data or b"{}").items()}


def read_proposed(log: CommitLog) -> dict[str, Any]:
    """What a search on the live stream proposes by its last commit: figures by table, `plan` among them."""
    with translated():
        last = log.last()
        data = decode(last.data).parts.get(PROPOSED) if last else log.client.hget(log.keys.parts, PROPOSED)
    return dict(orjson.loads(data or b"{}"))


def read_proposals(log: CommitLog, dims: dict[str, int]) -> list[Proposal]:
    """The proposals for some tables, by name; of a table, that for the next commit first, then by offset.

    Args:
        log: Of the shard.
        dims: Full width of each table.

    Raises:
        BadBytes: If one does not fit its table.
        StoreUnavailable: If Redis did not answer.
    """
    with translated():
        found = log.client.hgetall(log.keys.plans)
    proposals = []
    for field, data in found.items():
        name = field.decode().partition(":")[0]
        if name not in dims:
            continue
        try:
            value = orjson.loads(data)
            plan = None if value["plan"] is None else parse_plan(value["plan"], name, dims[name])
            proposals.append(Proposal(name, plan, value["from_offset"]))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise BadBytes(f"the plan proposed for table {name!r} cannot be read: {error!r}") from None
    return sorted(proposals, key=lambda p: (p.table, -1 if p.from_offset is None else p.from_offset))
