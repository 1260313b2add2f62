"""Dimension search on the live stream: alpha of every table, judged now and again, and what is proposed.

All that it does follows from the examples in their order: a trainer that is killed and restored proposes the same at
the same place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embedding_store.lookup import Fields, Occurrences, plain_fields
from embedding_store.plan import TablePlan, read_plan
from embedding_store.proposal import PROPOSED
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from trainer.search.live_table import Descent, LiveTable, block_of, kept_by
from trainer.search.settings import OnlineSearchSettings

STATE = "search"
"""The part of a commit that holds alpha and moments."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plan that the search proposes.

    Attributes:
        table: Its name.
        plan: The plan.
        examples: After how many examples of the search.
        numbers: Of all vectors under the plan.
        numbers_before: Under the plan in force.
        widened: Share of the lookups whose block gets dimensions that it does not have.
    """

    table: str
    plan: TablePlan
    examples: int
    numbers: float
    numbers_before: float
    widened: float

    def to_json(self) -> dict[str, Any]:
        """The plan as `dolmen store plan` takes it, and the figures."""
        return asdict(self)


def searched(tables: Sequence[TableSettings], wanted: Sequence[str]) -> list[str]:
    """Names of the tables to search.

    Args:
        tables: All of a definition.
        wanted: Those that the configuration names; none: all that can be.

    Raises:
        ValueError: If one of them has no vectors, or none has.
    """
    able = [table.name for table in tables if table.kind == "weights" and table.dim]
    wrong = sorted(set(wanted) - set(able))
    if wrong:
        raise ValueError(f"trainer.search.tables: {', '.join(map(repr, wrong))} is no table with vectors")
    if not able:
        raise ValueError("trainer.dimension_search: no table has vectors, so there is nothing to search; set it to off")
    return list(wanted) or able


class OnlineSearch:
    """The search over one shard.

    Args:
        shard: Whose lookups are observed.
        settings: Of the search.
        tables: Names of the tables to search.
        turns: Whether axes are proposed as soon as they are chosen, with every dimension kept: rows that lie along them
            show sooner which dimensions are of no use. Otherwise they come with the first plan that saves something.

    Attributes:
        examples: Observed so far.
        proposed: The latest proposal of each table, as long as its plan is not in force.
    """

    def __init__(self, shard: Shard, settings: OnlineSearchSettings, tables: Sequence[str], turns: bool) -> None:
        self._shard = shard
        self._turns = turns
        self._settings = settings
        self._descent = Descent(rate=settings.rate, penalty=settings.penalty)
        self.tables = {name: LiveTable(shard.tables[shard.number[name]].dim) for name in sorted(tables)}
        self.proposed: dict[str, Found] = {}
        self.examples = self._judged_at = 0
        self._known: dict[str, TablePlan | None] = dict.fromkeys(self.tables)
        self._before = self._of = np.empty(0, dtype=np.int64)
        self._live = {name: kept_by(None, table.dim) for name, table in self.tables.items()}
        for name, table in self.tables.items():
            counts = shard.rows.headers["count"][shard.live_rows(shard.number[name])].astype(np.int64)
            table.count(np.zeros_like(counts), counts)

    # What the stream brings

    def observe(
        self,
        batch: Occurrences,
        rows: NDArray[np.int64],
        fields: Fields,
        pooled: NDArray[np.float32],
        gradients: NDArray[np.float32],
    ) -> None:
        """Takes in a batch that was scored and not yet learned from.

        Args:
            batch: The ids.
            rows: int64[N], as `lookup` gave them.
            fields: Of the batch.
            pooled: float32[B, F, 1 + K], as `gather` gave them.
            gradients: float32[B, F, 1 + K], of the summed loss in these.
        """
        examples = gradients.shape[0]
        lengths = np.diff(batch.offsets)
        cells = np.repeat(np.arange(lengths.size), lengths)
        tables = fields.tables[cells % fields.tables.size]
        shares = np.where(fields.means[cells % fields.tables.size], 1.0 / lengths[cells], 1.0).astype(np.float32)
        flat, served = gradients.reshape(-1, gradients.shape[2]), pooled.reshape(-1, gradients.shape[2])
        due = self._is_due(self._descent.every, examples)
        self.follow()
        for name, table in self.tables.items():
            number = self._shard.number[name]
            some = np.flatnonzero((tables == number) & (rows != number))
            if some.size:
                counts = self._shard.rows.headers["count"][rows[some]].astype(np.int64)
                given = flat[cells[some], 1 : 1 + table.dim] * shares[some, None]
                if (lengths[cells[some]] == 1).all():
                    vectors = served[cells[some], 1 : 1 + table.dim]
                else:
                    vectors = self._single(number, batch, rows, some)
                table.observe(block_of(counts), vectors, given, self._aligns(name))
            if due:
                table.descend(self._descent, self._live[name])
        self._before = np.where(rows == tables, 0, self._shard.rows.headers["count"][rows]).astype(np.int64)
        self._of = tables
        self.examples += examples

    def _single(
        self, number: int, batch: Occurrences, rows: NDArray[np.int64], some: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Vectors of single lookups, as they were served."""
        each = Occurrences(batch.ids[some], batch.missing[some], np.arange(some.size + 1))
        pooled = self._shard.gather(rows[some], each, plain_fields([number]))
        return pooled[:, 0, 1 : 1 + self._shard.tables[number].dim]

    def count(self, updated: NDArray[np.int64]) -> None:
        """Takes in which ids moved up by the batch that was observed last: int64[N], as `sight` gave them."""
        for name, table in self.tables.items():
            number = self._shard.number[name]
            own = np.flatnonzero((self._of == number) & (updated != number))
            distinct, first = np.unique(updated[own], return_index=True)
            after = self._shard.rows.headers["count"][distinct].astype(np.int64)
            table.count(self._before[own[first]], after)

    def _is_due(self, every: int, examples: int) -> bool:
        """Whether a multiple of so many examples is passed by this batch."""
        return (self.examples + examples) // every > self.examples // every

    def _aligns(self, name: str) -> bool:
        """Whether axes are still to be chosen: not once a plan has taken dimensions away."""
        return self.examples < max(self._settings.align, default=0) and bool(self._live[name].all())

    def follow(self) -> None:
        """Where another plan came into force, alpha goes on with what it keeps. Idempotent."""
        for name in self.tables:
            self._follow(name)

    def _follow(self, name: str) -> None:
        plan = self._shard.layouts.plans.get(name)
        if plan == self._known[name]:
            return
        table, before = self.tables[name], self._live[name]
        axes = np.eye(table.dim) if plan is None or plan.matrix is None else np.array(plan.matrix)
        self._live[name] = kept_by(plan, table.dim)
        if not np.array_equal(axes, table.axes):
            table.begin(axes)
        table.alpha[self._live[name] & ~before] = 1.0
        table.alpha[~self._live[name]] = 0.0
        self._known[name] = plan
        self.proposed.pop(name, None)

    # Judging

    def judge(self) -> list[Found]:
        """What is to be proposed after what was observed since the last call; nothing but at the end of an interval."""
        settings, found = self._settings, list[Found]()
        before, self._judged_at = self._judged_at, self.examples
        if any(before < at <= self.examples for at in settings.align):
            found += self._align()
        if self.examples // settings.interval == before // settings.interval:
            return found
        if self.examples < max(settings.align, default=0) + settings.interval:
            return found
        for name, table in self.tables.items():
            one = self._judged(name, table)
            if one is None:
                self.proposed.pop(name, None)
            elif name not in self.proposed or self.proposed[name].plan != one.plan:
                self.proposed[name] = one
                found.append(one)
        return found

    def _align(self) -> list[Found]:
        found = []
        for name, table in self.tables.items():
            live = self._live[name]
            if live.all():
                table.align()
                found.append(Found(name, table.plan(live), self.examples, self.numbers(name), self.numbers(name), 0.0))
        return found if self._turns else []

    def _judged(self, name: str, table: LiveTable) -> Found | None:
        kept = table.wanted(self._settings.least, self._settings.spare)
        if kept is None:
            return None
        live = self._live[name]
        lookups = np.where((kept & ~live).any(1), table.seen, 0.0)
        widened = float(lookups.sum() / table.seen.sum())
        numbers, now = table.numbers(kept), table.numbers(live)
        gain = self._settings.gain
        if numbers > (1.0 - gain) * now and widened < gain:
            return None
        return Found(name, table.plan(kept), self.examples, numbers, now, widened)

    def numbers(self, name: str) -> float:
        """Numbers of all vectors of a table under the plan in force."""
        return self.tables[name].numbers(self._live[name])

    # In the commit

    def parts(self) -> dict[str, bytes]:
        """What a commit carries: alpha and moments, and the proposals."""
        self.follow()
        tables = {name: table.to_bytes() for name, table in self.tables.items()}
        head = orjson.dumps({"examples": self.examples, "tables": [(n, len(data)) for n, data in tables.items()]})
        state = len(head).to_bytes(4, "little") + head + b"".join(tables.values())
        proposed = {name: one.to_json() for name, one in self.proposed.items()}
        return {STATE: state, PROPOSED: orjson.dumps(proposed, option=orjson.OPT_SORT_KEYS)}

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Takes what :meth:`parts` gave, with the plans of the same commit in force.

        A table that was not searched, or was of another width, begins anew.
        """
        data = parts.get(STATE, b"")
        if not data:
            return
        size = int.from_bytes(data[:4], "little")
        head, at = orjson.loads(data[4 : 4 + size]), 4 + size
        self.examples = self._judged_at = head["examples"]
        for name, length in head["tables"]:
            if name in self.tables and self.tables[name].load(data[at : at + length]):
                plan = self._shard.layouts.plans.get(name)
                self._known[name], self._live[name] = plan, kept_by(plan, self.tables[name].dim)
            at += length
        for name, value in orjson.loads(parts.get(PROPOSED, b"{}")).items():
            if name in self.tables:
                self.proposed[name] = Found(**{**value, "plan": read_plan(value["plan"], name)})
