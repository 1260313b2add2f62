"""How labels are made: which action, within which window, and when they leave."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
import xxhash

from services.settings import JoinerSettings, OutcomeSettings
from trainer.settings import TaskSettings


@dataclass(frozen=True, slots=True)
class Task:
    """One label.

    Attributes:
        name: The label's name.
        action: The type of the actions that make it 1.
        threshold: The least value of such an action; None: any.
        window_ms: How long after its impression an action counts.
        keep: The share of zeros that leave.
    """

    name: str
    action: str
    threshold: float | None
    window_ms: int
    keep: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One number that comes with the labels: the value of an action."""

    name: str
    action: str
    window_ms: int


@dataclass(frozen=True, slots=True)
class Use:
    """What an action of one type is good for."""

    window_ms: int
    tasks: tuple[Task, ...]
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules under which impressions are joined. Times are event time in ms.

    Attributes:
        tasks: The labels.
        outcomes: Numbers beside them.
        eager: Whether a positive leaves with its action.
        out_of_orderness_ms: How far events of a partition may be out of order.
        skew_ms: How far an action may lie before its impression.
        late_ms: How long after the close of its window an action still makes a correction.
        correction_weight: The correction's weight.
        stages: The tasks' different windows, rising; the labels of each leave together.
        uses: By the action's type.
    """

    tasks: tuple[Task, ...]
    outcomes: tuple[Outcome, ...]
    eager: bool
    out_of_orderness_ms: int
    skew_ms: int
    late_ms: int
    correction_weight: float
    stages: tuple[int, ...] = field(init=False)
    uses: dict[str, Use] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(sorted({task.window_ms for task in self.tasks})))
        windows = {task.action: task.window_ms for task in self.tasks}
        windows |= {outcome.action: outcome.window_ms for outcome in self.outcomes}
        uses = {
            action: Use(
                window,
                tuple(task for task in self.tasks if task.action == action),
                tuple(outcome for outcome in self.outcomes if outcome.action == action),
            )
            for action, window in windows.items()
        }
        object.__setattr__(self, "uses", uses)

    def end(self, ts: int, window_ms: int) -> int:
        """When a window of an impression closes: once the closing watermark has passed this."""
        return ts + window_ms + self.out_of_orderness_ms

    def forget(self, ts: int) -> int:
        """When nothing of an impression is needed any more."""
        return self.end(ts, self.stages[-1]) + self.late_ms

    @property
    def horizon_ms(self) -> int:
        """How long an impression is kept at most, in event time."""
        return self.stages[-1] + self.out_of_orderness_ms + self.late_ms + self.skew_ms

    def stage_of(self, window_ms: int) -> int:
        """The stage with which what has this window leaves: the first that is not shorter."""
        return next(i for i, stage in enumerate(self.stages) if stage >= window_ms)

    def to_json(self) -> dict[str, Any]:
        """As JSON that :meth:`from_json` reads back."""
        return {
            "tasks": [[t.name, t.action, t.threshold, t.window_ms, t.keep] for t in self.tasks],
            "outcomes": [[o.name, o.action, o.window_ms] for o in self.outcomes],
            "eager": self.eager,
            "out_of_orderness_ms": self.out_of_orderness_ms,
            "skew_ms": self.skew_ms,
            "late_ms": self.late_ms,
            "correction_weight": self.correction_weight,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The rules that :meth:`to_json` wrote."""
        tasks = tuple(Task(*task) for task in value["tasks"])
        return cls(**{**value, "tasks": tasks, "outcomes": tuple(Outcome(*outcome) for outcome in value["outcomes"])})


def make_rules(joiner: JoinerSettings, tasks: Iterable[TaskSettings], outcomes: Iterable[OutcomeSettings]) -> Rules:
    """The rules that the settings describe."""

    def window(action: str) -> int:
        given = joiner.attribution_window
        return given[action] if isinstance(given, dict) else given

    kept = joiner.negatives
    return Rules(
        tasks=tuple(
            Task(
                task.name,
                task.action_name,
                task.threshold,
                window(task.action_name),
                kept.get(task.name, 1.0) if isinstance(kept, dict) else kept,
            )
            for task in tasks
        ),
        outcomes=tuple(Outcome(o.name, o.action, window(o.action)) for o in outcomes),
        eager=joiner.emit == "eager",
        out_of_orderness_ms=joiner.out_of_orderness,
        skew_ms=joiner.allowed_skew,
        late_ms=joiner.late_window,
        correction_weight=joiner.correction_weight,
    )


class RuleBook:
    """The rules by the offset of the impression: an impression is finished under the rules that it came under.

    Args:
        chapters: First offset and rules, rising; the first holds for all offsets before it too.
    """

    def __init__(self, chapters: Sequence[tuple[int, Rules]]) -> None:
        self.chapters = list(chapters)

    @property
    def latest(self) -> Rules:
        """Of impressions that are yet to come."""
        return self.chapters[-1][1]

    def at(self, offset: int) -> Rules:
        """Of the impression at an offset."""
        for first, rules in reversed(self.chapters):
            if offset >= first:
                return rules
        return self.chapters[0][1]

    def change(self, offset: int, rules: Rules) -> None:
        """Takes new rules for impressions from an offset on."""
        if rules != self.latest:
            self.chapters = [chapter for chapter in self.chapters if chapter[0] < offset] + [(offset, rules)]

    def drop_before(self, offset: int) -> None:
        """Forgets rules that held only for impressions before an offset."""
        while len(self.chapters) > 1 and self.chapters[1][0] <= offset:
            del self.chapters[0]


def is_kept(request: str, item: str, task: Task) -> bool:
    """Whether a zero leaves: decided by a hash of request, item and task, so that every run decides alike.

    >>> half = Task("click", "click", None, 0, 0.5)
    >>> sum(is_kept("r", str(item), half) for item in range(10_000))
    5041
    """
    if task.keep >= 1.0:
        return True
    return xxhash.xxh3_64_intdigest(orjson.dumps([request, item, task.name])) < task.keep * 2.0**64
