"""What the live search tells Prometheus."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge

from embedding_store.plan import TablePlan
from embedding_store.shard import Shard
from trainer.search.online import Found, OnlineSearch
from trainer.validation import Progress

_NUMBER_BYTES = 4


class SearchMetrics:
    """Proposals, plans in force, and their effect; there are none before a search begins.

    Args:
        registry: The trainer's.
        progress: Of the first task: the window whose log loss is told.
    """

    def __init__(self, registry: CollectorRegistry, progress: Progress) -> None:
        self._progress = progress
        self._proposals = Counter(
            "dolmen_search_proposals", "Dimension plans that the live search proposed.", ["table"], registry=registry
        )
        self._takeovers = Counter("dolmen_search_takeovers", "Of these, taken over.", ["table"], registry=registry)
        self._widths = Gauge(
            "dolmen_plan_width", "Numbers of a vector by the plan in force; a block begins at `seen` sightings.",
            ["table", "seen"], registry=registry,
        )  # fmt: skip
        self._bytes = Gauge(
            "dolmen_search_bytes", "Vectors of the searched ids, without optimizer state, under a plan.",
            ["table", "plan"], registry=registry,
        )  # fmt: skip
        self._loss = Gauge(
            "dolmen_search_logloss", "Log loss of the window before the last take-over, and after it.",
            ["table", "when"], registry=registry,
        )  # fmt: skip
        self._due: dict[str, int] = {}
        self._shown: dict[str, TablePlan | None] = {}

    def proposed(self, found: Found, is_taken: bool) -> None:
        """Counts a proposal."""
        self._proposals.labels(found.table).inc()
        if not is_taken:
            return
        self._takeovers.labels(found.table).inc()
        self._tell(found.table, "before")
        self._due[found.table] = self._progress.count + self._progress.window

    def refresh(self, search: OnlineSearch, shard: Shard) -> None:
        """Sets the gauges."""
        for table, count in list(self._due.items()):
            if self._progress.count >= count:
                self._tell(table, "after")
                del self._due[table]
        for name in search.tables:
            self._proposals.labels(name)
            self._takeovers.labels(name)
            plan = shard.layouts.plans.get(name)
            dim = shard.tables[shard.number[name]].dim
            self._bytes.labels(name, "in force").set(_NUMBER_BYTES * search.numbers(name))
            proposal = search.proposed.get(name)
            wanted = search.numbers(name) if proposal is None else proposal.numbers
            self._bytes.labels(name, "proposed").set(_NUMBER_BYTES * wanted)
            if name not in self._shown or self._shown[name] != plan:
                self._show(name, plan, dim)

    def _show(self, name: str, plan: TablePlan | None, dim: int) -> None:
        before = self._shown.get(name)
        for bound in (0, *(before.bounds if before else ())) if name in self._shown else ():
            self._widths.remove(name, str(bound))
        for bound, kept in zip((0, *plan.bounds), plan.kept, strict=True) if plan else ((0, range(dim)),):
            self._widths.labels(name, str(bound)).set(len(kept))
        self._shown[name] = plan

    def _tell(self, table: str, when: str) -> None:
        loss = self._progress.recent().log_loss
        if not math.isnan(loss):
            self._loss.labels(table, when).set(loss)
