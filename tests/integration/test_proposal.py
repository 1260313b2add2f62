"""Dimension plans that wait for a trainer, over a real store."""

import orjson
import pytest

from embedding_store.errors import StoreUnavailable
from embedding_store.log import CommitLog
from embedding_store.plan import TablePlan
from embedding_store.proposal import TAKEOVERS, Proposal, fulfil, propose, read_proposals, withdraw
from embedding_store.removal import drop_table
from embedding_store.shard import Shard
from tests.shards import SEED, TABLES, Writer, log_for
from trainer.takeover import Takeover

DIMS = {table.name: table.dim for table in TABLES}
FIRST, SECOND, THIRD = (TablePlan((), (kept,)) for kept in ((0,), (0, 1), (2, 3)))


class OwnerOf:
    """What a takeover asks of an owner."""

    def __init__(self, log: CommitLog) -> None:
        self.log = log
        self.is_away = False

    def proposals(self, dims: dict[str, int]) -> list[Proposal]:
        return read_proposals(self.log, dims)

    def fulfil(self, proposal: Proposal) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        fulfil(self.log, proposal)


def takeover(log: CommitLog, shard: Shard, taken: bytes = b"") -> Takeover:
    return Takeover(OwnerOf(log), shard, taken, lambda: None)  # type: ignore[arg-type]  # as far as it is asked


@pytest.fixture
def log(redis_url: str) -> CommitLog:
    return log_for(redis_url)


def test_proposals_for_several_offsets_wait_side_by_side_in_order(log):
    for plan, offset in ((THIRD, 1000), (FIRST, 20), (SECOND, 300), (None, None)):
        propose(log, Proposal("wide", plan, offset))
    propose(log, Proposal("wide", None, 1000))
    assert read_proposals(log, DIMS) == [
        Proposal("wide", None),
        Proposal("wide", FIRST, 20),
        Proposal("wide", SECOND, 300),
        Proposal("wide", None, 1000),
    ]
    withdraw(log, "wide")
    withdraw(log, "wide")
    assert read_proposals(log, DIMS) == []


def test_a_proposal_is_fulfilled_only_if_it_is_still_the_one_that_waits(log):
    propose(log, Proposal("wide", FIRST))
    fulfil(log, Proposal("wide", SECOND))
    assert read_proposals(log, DIMS) == [Proposal("wide", FIRST)]
    fulfil(log, Proposal("wide", FIRST))
    assert read_proposals(log, DIMS) == []


def test_each_plan_is_taken_over_at_its_offset_once_and_after_a_restart_too(log):
    shard = Shard(TABLES, SEED)
    for plan, offset in ((FIRST, 10), (SECOND, 20), (FIRST, 30)):
        propose(log, Proposal("wide", plan, offset))
    plans = takeover(log, shard)
    plans.read()
    in_force = []
    for offset in (0, 9, 10, 15, 25, 26):
        plans.at_message(offset)
        in_force.append(shard.layouts.plans.get("wide"))
        plans.read()
    assert in_force == [None, None, FIRST, FIRST, SECOND, SECOND]
    assert orjson.loads(plans.parts()[TAKEOVERS]) == {"wide": 20}
    restored = Shard(TABLES, SEED, layouts=shard.layouts.to_json())
    again = takeover(log, restored, plans.parts()[TAKEOVERS])
    again.read()
    again.at_message(29)
    assert restored.layouts.plans["wide"] == SECOND
    again.at_message(30)
    assert restored.layouts.plans["wide"] == FIRST


def test_a_batch_that_passes_two_offsets_takes_both_over_in_order(log):
    shard = Shard(TABLES, SEED)
    for plan, offset in ((SECOND, 11), (FIRST, 10)):
        propose(log, Proposal("wide", plan, offset))
    plans = takeover(log, shard)
    plans.read()
    plans.at_message(50)
    assert shard.layouts.plans["wide"] == SECOND


def test_a_plan_for_the_next_commit_is_taken_over_once_even_if_redis_is_away_afterwards(log):
    """Left behind, it would come back when a later plan is in force."""
    shard = Shard(TABLES, SEED)
    propose(log, Proposal("wide", FIRST))
    propose(log, Proposal("wide", SECOND, 10))
    owner = OwnerOf(log)
    plans = Takeover(owner, shard, b"", lambda: None)  # type: ignore[arg-type]  # as far as it is asked
    plans.read()
    assert plans.due_at_commit
    plans.at_commit()
    owner.is_away = True
    with pytest.raises(StoreUnavailable):
        plans.confirm()
    plans.read()
    assert not plans.due_at_commit
    owner.is_away = False
    plans.read()
    plans.at_message(10)
    plans.read()
    assert not plans.due_at_commit
    assert shard.layouts.plans["wide"] == SECOND
    assert read_proposals(log, DIMS) == [Proposal("wide", SECOND, 10)]


@pytest.mark.parametrize("folded", [False, True])
def test_a_proposal_for_an_offset_that_is_past_a_plan_in_force_is_refused(log, folded):
    writer = Writer(log)
    writer.parts[TAKEOVERS] = orjson.dumps({"wide": 20})
    writer.commit()
    if folded:
        from embedding_store.materializer import Materializer

        Materializer(log, writer.epoch, 0).fold()
        log.client.delete(log.keys.log)
    with pytest.raises(ValueError, match="'wide' has a plan from offset 20 on already, so one from offset 20 comes"):
        propose(log, Proposal("wide", FIRST, 20))
    propose(log, Proposal("wide", FIRST, 21))
    propose(log, Proposal("narrow", None, 3))
    propose(log, Proposal("wide", None))
    assert len(read_proposals(log, DIMS)) == 3


def test_a_table_that_was_dropped_leaves_no_offset_behind(log):
    writer = Writer(log)
    writer.parts[TAKEOVERS] = orjson.dumps({"wide": 20, "narrow": 3})
    writer.commit()
    propose(log, Proposal("wide", FIRST, 30))
    drop_table(log, "wide")
    assert read_proposals(log, DIMS) == []
    propose(log, Proposal("wide", FIRST, 5))
    with pytest.raises(ValueError, match="offset 3 on already"):
        propose(log, Proposal("narrow", None, 2))
