"""Dimension plans that a running trainer is asked to take over.

A proposal waits in Redis beside the shard's log. The owner takes it over at a commit boundary, or, where it names an
offset, before the first batch that begins at that offset or later, so that a replay takes it over at the same place.
"""

from dataclasses import dataclass

import orjson

from embedding_store.errors import BadBytes
from embedding_store.log import CommitLog
from embedding_store.plan import TablePlan, parse_plan
from embedding_store.redis_client import translated


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


def propose(log: CommitLog, proposal: Proposal) -> None:
    """Leaves a proposal, in place of an earlier one for the table."""
    plan = proposal.plan
    value = {
        "plan": None if plan is None else {"bounds": plan.bounds, "kept": plan.kept, "matrix": plan.matrix},
        "from_offset": proposal.from_offset,
    }
    with translated():
        log.client.hset(log.keys.plans, proposal.table, orjson.dumps(value))


def withdraw(log: CommitLog, table: str) -> None:
    """Takes a table's proposal back; what was taken over stays. Idempotent."""
    with translated():
        log.client.hdel(log.keys.plans, table)


def read_proposals(log: CommitLog, dims: dict[str, int]) -> list[Proposal]:
    """The proposals for some tables, by name.

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
    for name, data in sorted((key.decode(), value) for key, value in found.items()):
        if name not in dims:
            continue
        try:
            value = orjson.loads(data)
            plan = None if value["plan"] is None else parse_plan(value["plan"], name, dims[name])
            proposals.append(Proposal(name, plan, value["from_offset"]))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise BadBytes(f"the plan proposed for table {name!r} cannot be read: {error!r}") from None
    return proposals
