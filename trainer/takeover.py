"""Dimension plans on their way into a running trainer."""

import logging

from embedding_store.errors import StoreUnavailable
from embedding_store.owner import Owner
from embedding_store.proposal import Proposal
from embedding_store.shard import Shard

_log = logging.getLogger(__name__)


class Takeover:
    """The plans that wait for one shard.

    Args:
        owner: Of the shard.
        shard: Takes them over.
    """

    def __init__(self, owner: Owner, shard: Shard) -> None:
        self._owner = owner
        self._shard = shard
        self._waiting: list[Proposal] = []

    def read(self) -> None:
        """Looks for plans; those in force already are no news.

        Raises:
            BadBytes: If one does not fit its table.
        """
        try:
            found = self._owner.proposals({table.name: table.dim for table in self._shard.tables})
        except StoreUnavailable:
            return
        self._waiting = [p for p in found if self._shard.layouts.plans.get(p.table) != p.plan]

    @property
    def due_at_commit(self) -> bool:
        """Whether a plan waits for the next commit."""
        return any(proposal.from_offset is None for proposal in self._waiting)

    def at_commit(self) -> None:
        """Takes over what names no offset."""
        self._take([p for p in self._waiting if p.from_offset is None])

    def at_message(self, offset: int) -> None:
        """Takes over what holds from this offset or an earlier one."""
        if self._waiting:
            self._take([p for p in self._waiting if p.from_offset is not None and offset >= p.from_offset])

    def _take(self, due: list[Proposal]) -> None:
        for proposal in due:
            self._shard.set_plan(proposal.table, proposal.plan)
            self._waiting.remove(proposal)
            _log.info("table %r has a new dimension plan", proposal.table)
