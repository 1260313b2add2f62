"""Settings of statistics of the stream, and what they need of their tables."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from embedding_store.settings import SPARE, Accumulator, OptionalDuration, Section
from trainer.settings import NAME

_LONGEST_NAME = 64  # of a table
_CONDITION = re.compile(r"\s*((?:labels|outcomes)\.[\w.-]+)\s*(=|!=|<=|<|>=|>)\s*(-?\d+(?:\.\d+)?)\s*")


class StatisticSettings(Section):
    """What has just happened to an id or a crossed id, as an input of the model.

    Read before a batch is scored, updated with its labels and outcomes after it was learned from.
    """

    name: str = Field(pattern=NAME)
    by: tuple[str, ...] = Field(min_length=1, description="names of id features; several: their cross")
    kind: Literal["rate", "mean", "count", "last", "since"]
    of: str | None = Field(default=None, description="labels.NAME or outcomes.NAME; without: every sighting")
    where: str | None = Field(default=None, description='what counts: "labels.click = 0 and outcomes.play_ms > 0"')
    unit: float = Field(default=1.0, gt=0, description="divides what comes in")
    log: bool = Field(default=False, description="takes log(1 + x) of what comes in")
    most: float | None = Field(default=None, description="caps what comes in")
    prior: tuple[float, float] | None = Field(default=None, description="of rate and mean: its mean, and its weight")
    half_life: OptionalDuration = Field(default=None, description="of rate, mean and count; event time")
    window: OptionalDuration = Field(default=None, description="of rate, mean and count; event time")
    length: int = Field(default=1, ge=1, le=32, description="of last: how many")
    transform: Literal["none", "log"] = Field(default="none", description="of what is read, without `buckets`")
    buckets: tuple[float, ...] | None = Field(default=None, description="edges of what is read; makes it an id")
    table: str | None = Field(default=None, description="with `buckets`; default: a table of its own name")
    input: bool = Field(default=True, description="false: for crosses only; the model does not see it itself")
    prior_variance: float | None = Field(default=None, gt=0, description="of Gaussian weights, with `buckets`")

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = []
        averaged = self.kind in ("rate", "mean")
        if self.of is None and self.kind not in ("count", "since"):
            faults.append(f"`of` is missing; kind {self.kind} is of labels.NAME or outcomes.NAME")
        if self.of is not None and not re.fullmatch(r"(labels|outcomes)\.[\w.-]+", self.of):
            faults.append(f"`of` {self.of!r} must be labels.NAME or outcomes.NAME")
        if self.where is not None and not all(map(_CONDITION.fullmatch, self.where.split(" and "))):
            faults.append(f'`where` {self.where!r} must read like "labels.click = 0 and outcomes.play_ms > 0"')
        if self.prior is not None and (not averaged or self.prior[1] < 0):
            faults.append("`prior` goes with kinds rate and mean only, and its weight is at least 0")
        if (self.half_life or self.window) and not (averaged or self.kind == "count"):
            faults.append("`half_life` and `window` go with kinds rate, mean and count only")
        if self.half_life and self.window:
            faults.append("`half_life` and `window` exclude each other")
        if self.length > 1 and (self.kind != "last" or self.buckets is None):
            faults.append("`length` goes with kind last and `buckets` only")
        if self.buckets is not None and (list(self.buckets) != sorted(set(self.buckets)) or not self.buckets):
            faults.append("`buckets` must be edges in rising order")
        if self.buckets is not None and self.transform != "none":
            faults.append("`transform` does not go with `buckets`")
        if self.buckets is None and (self.table or self.prior_variance or not self.input):
            faults.append("`table`, `prior_variance` and `input = false` go with `buckets` only")
        if len(self.statistics_table) > _LONGEST_NAME:
            faults.append(f"`by` {list(self.by)} makes a table's name of more than {_LONGEST_NAME} characters")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def conditions(self) -> tuple[tuple[str, str, float], ...]:
        """What must hold: source, operator, number."""
        found = [_CONDITION.fullmatch(part) for part in self.where.split(" and ")] if self.where else []
        return tuple((match[1], match[2], float(match[3])) for match in found if match)

    @property
    def takes(self) -> str:
        """A name for what comes in; equal inputs have equal names."""
        text = self.of or "1"
        text = text if self.unit == 1 else f"{text} / {_exact(self.unit)}"
        text = f"log({text})" if self.log else text
        text = text if self.most is None else f"min({text}, {_exact(self.most)})"
        conditions = " and ".join(
            f"{source} {operator} {_exact(number)}" for source, operator, number in self.conditions
        )
        return f"{text} where {conditions}" if conditions else text

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """What it needs of its table's rows."""
        if self.kind == "last":
            return (Accumulator(kind="last", of=self.takes, length=self.length + SPARE),)
        if self.kind == "since":
            return (Accumulator(kind="time", of=self.takes, length=1 + SPARE),)
        kinds: list[Literal["sum", "count"]] = ["count"] if self.kind == "count" else ["sum", "count"]
        if self.window:
            return tuple(Accumulator(kind=f"window_{kind}", of=self.takes, window_ms=self.window) for kind in kinds)
        return tuple(Accumulator(kind=kind, of=self.takes, half_life_ms=self.half_life) for kind in kinds)

    @property
    def statistics_table(self) -> str:
        """The table that holds its accumulators, together with those of all others by the same id."""
        return "by." + "_x_".join(self.by)

    @property
    def table_name(self) -> str:
        """The table of the rows that its buckets look up."""
        return self.table or self.name


def _exact(number: float) -> str:
    """A number so that different ones read differently.

    >>> _exact(1000.0), _exact(0.1)
    ('1000', '0.1')
    """
    return repr(number).removesuffix(".0")
