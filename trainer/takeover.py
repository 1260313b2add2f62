"""Dimension plans on their way into a running trainer."""

import logging
from collections.abc import Callable, Mapping

import orjson

from embedding_store.errors import StoreUnavailable
from embedding_store.owner import Owner
from embedding_store.plan import TablePlan
from embedding_store.proposal import TAKEOVERS, Proposal, read_takeovers
from embedding_store.shard import Shard

_log = logging.getLogger(__name__)


class Takeover:
    """The plans that wait for one shard.

    Args:
        owner: Of the shard.
        shard: Takes them over.
        taken: What the last commit says of those that were taken over.
        make_room: Called where an earlier plan must be carried out first and memory runs short: commits and folds.
    """

    def __init__(self, owner: Owner, shard: Shard, taken: bytes, make_room: Callable[[], None]) -> None:
        self._owner = owner
        self._shard = shard
        self._make_room = make_room
        self._taken = read_takeovers(taken)
        self._waiting: list[Proposal] = []
        self._fulfilled: list[Proposal] = []

    def read(self) -> None:
        """Looks for plans; those in force already are no news.

        Raises:
            BadBytes: If one does not fit its table.
        """
        try:
            found = self._owner.proposals({table.name: table.dim for table in self._shard.tables})
            self._waiting = [p for p in found if self._is_news(p)]
            self._fulfilled += [p for p in found if p.from_offset is None and p not in self._waiting]
            self.confirm()
        except StoreUnavailable:
            return

    def _is_news(self, proposal: Proposal) -> bool:
        if proposal.from_offset is None:
            return self._shard.layouts.plans.get(proposal.table) != proposal.plan
        return proposal.from_offset > self._taken.get(proposal.table, -1)

    @property
    def due_at_commit(self) -> bool:
        """Whether a plan waits for the next commit."""
        return any(proposal.from_offset is None for proposal in self._waiting)

    def at_commit(self) -> None:
        """Takes over what names no offset. To be committed before anything else is taken over, then confirmed."""
        due = [p for p in self._waiting if p.from_offset is None]
        self._take(due)
        self._fulfilled += due

    def at_message(self, offset: int) -> None:
        """Takes over what holds from this offset or an earlier one; of a table, the earlier ones first."""
        if self._waiting:
            self._take([p for p in self._waiting if p.from_offset is not None and offset >= p.from_offset])

    def take(self, plans: Mapping[str, TablePlan]) -> None:
        """Takes over what was found here."""
        self._take([Proposal(table, plan) for table, plan in plans.items()])

    def confirm(self) -> None:
        """Takes away what was taken over at a commit and is committed.

        Raises:
            StoreUnavailable: If Redis did not answer. What is in force is taken away when the plans are next read.
        """
        while self._fulfilled:
            self._owner.fulfil(self._fulfilled[0])
            del self._fulfilled[0]

    def parts(self) -> dict[str, bytes]:
        """What a commit carries: of each table the highest offset from which a plan was taken over."""
        if not self._taken:
            return {}
        return {TAKEOVERS: orjson.dumps(self._taken, option=orjson.OPT_SORT_KEYS)}

    def _take(self, due: list[Proposal]) -> None:
        """Those of one table one after another, those of several tables together."""
        self._waiting = [p for p in self._waiting if p not in due]
        while due:
            first = {proposal.table: proposal for proposal in reversed(due)}
            due = [proposal for proposal in due if proposal is not first[proposal.table]]
            plans = self._shard.layouts.plans
            news = {table: p.plan for table, p in first.items() if plans.get(table) != p.plan}
            if news:
                self._shard.carry_out(self._make_room)
                self._shard.set_plans(news)
            for table, proposal in first.items():
                if proposal.from_offset is not None:
                    self._taken[table] = proposal.from_offset
                _log.info("table %r has a new dimension plan", table)
