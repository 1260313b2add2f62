"""Settings of the trainer: events, features, tasks, model, and the loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from embedding_store.settings import Duration, OptionalByteSize, Section, StoreSettings
from trainer.search.settings import OnlineSearchSettings

if TYPE_CHECKING:
    from trainer.definition import Definition

NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"
_TIME_SOURCES = ("time.hour", "time.weekday")
_AFTERWARDS = ("labels", "outcomes", "weight", "sampled", "correction")  # of an item


class FeatureSettings(Section):
    """One field of the model's input and where its value comes from."""

    name: str = Field(pattern=NAME)
    kind: Literal["id", "ids", "number", "cross", "sequence"]
    source: str | None = Field(default=None, description="user.*, context.*, item.*, time.hour or time.weekday")
    table: str | None = Field(default=None, description="default: a table of the feature's own name")
    pooling: Literal["mean", "sum"] = Field(default="mean", description="of kind ids")
    transform: Literal["none", "log"] = Field(default="none", description="of kind number, before standardisation")
    buckets: tuple[float, ...] | None = Field(default=None, description="of kind number: edges; makes it an id")
    inputs: tuple[str, ...] = Field(default=(), description="of kind cross: names of id features")
    of: str | None = Field(default=None, description="of kind sequence: the label that lets an item in; none: all do")
    length: int | None = Field(default=None, ge=1, le=500, description="of kind sequence: items; default 20")
    count: bool = Field(default=True, description="false: looks up only; neither counts, admits nor renews expiry")
    input: bool = Field(default=True, description="false: for crosses and statistics only; the model does not see it")
    prior_variance: float | None = Field(default=None, gt=0, description="of Gaussian weights; default: its table's")

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults: list[str] = []
        if self.kind == "sequence":
            faults += self._sequence_faults()
        elif self.kind == "cross":
            if len(self.inputs) < 2:
                faults.append("`inputs` must name at least two features")
            if self.source is not None:
                faults.append("`source` does not go with kind cross; use `inputs`")
        else:
            if self.inputs:
                faults.append("`inputs` goes with kind cross only")
            if self.source is None:
                faults.append("`source` is missing")
            elif self.source.split(".")[0] not in ("user", "context", "item", "time") or "." not in self.source:
                faults.append(f"`source` {self.source!r} must begin with user., context., item. or time.")
            elif self.source.startswith("time.") and self.source not in _TIME_SOURCES:
                faults.append(f"`source` {self.source!r} is unknown; there are {' and '.join(_TIME_SOURCES)}")
            elif self.source.startswith("item.") and self.source.split(".")[1] in _AFTERWARDS:
                faults.append(f"`source` {self.source!r} is what came after the impression, so it can be no feature")
        if self.buckets is not None:
            if self.kind != "number":
                faults.append("`buckets` goes with kind number only")
            if list(self.buckets) != sorted(set(self.buckets)) or not self.buckets:
                faults.append("`buckets` must be edges in rising order")
        if self.transform != "none" and (self.kind != "number" or self.buckets is not None):
            faults.append("`transform` goes with kind number without `buckets` only")
        if self.table is not None and self.kind != "sequence" and not self.has_ids:
            faults.append("`table` does not go with a number without `buckets`")
        if self.kind != "sequence" and (self.of is not None or self.length is not None):
            faults.append("`of` and `length` go with kind sequence only")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _sequence_faults(self) -> Iterator[str]:
        if self.table is None:
            yield "`table` is missing; a sequence holds ids of an item's table"
        if self.source is not None and self.source.split(".")[0] not in ("user", "context"):
            yield f"`source` {self.source!r} must begin with user. or context.; it says whose past it is"
        if self.inputs:
            yield "`inputs` goes with kind cross only"
        if self.of is not None and self.of.split(".")[0] in ("labels", "outcomes"):
            yield f"`of` {self.of!r} must be the name of a label alone, such as click"

    @property
    def items(self) -> int:
        """How many items a sequence holds."""
        return self.length or 20

    @property
    def has_ids(self) -> bool:
        """Whether it is a field that looks rows up (neither a plain number nor a sequence)."""
        return self.kind != "sequence" and (self.kind != "number" or self.buckets is not None)

    @property
    def table_name(self) -> str:
        """The table that holds the field's rows."""
        return self.table or self.name


class TaskSettings(Section):
    """One prediction: a label of the examples."""

    name: str = Field(pattern=NAME, description="labels.NAME of an example's item")
    action: str | None = Field(default=None, description="how the joiner makes the label; default: the task's name")
    threshold: float | None = Field(default=None, description="of the action's value, for a label of 1")

    @property
    def action_name(self) -> str:
        """The type of the actions that make the label 1."""
        return self.action or self.name


class ModelSettings(Section):
    """The network over the embedded fields."""

    name: Literal["deepfm", "fm", "dcn", "din", "residual"] = "deepfm"
    wide: Literal["adagrad", "adagrad_elementwise", "adam", "ftrl", "gaussian"] | None = Field(
        default=None, description="how linear weights learn; default: by their table's optimizer"
    )
    hidden: tuple[int, ...] = Field(default=(128, 64), description="widths of the hidden layers")
    cross_layers: int = Field(default=2, ge=1, le=8, description="of dcn")
    low_rank: int | None = Field(default=None, ge=1, description="of dcn: rank of the cross layers; none: full")
    attention_hidden: tuple[int, ...] = Field(default=(32,), description="of din: widths of the activation unit")
    embedding_l2: float = Field(default=0.0, ge=0, description="mini-batch aware regularisation of the vectors")
    learning_rate: float = Field(default=1e-3, gt=0, description="Adam's, of the dense weights")
    score: str | None = Field(
        default=None,
        description='the ranking score: a task, or a formula like "0.7*click + 0.3*long_view"; default: the first',
    )

    @field_validator("hidden", "attention_hidden")
    @classmethod
    def _widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= width <= 4096 for width in value):
            raise ValueError("every width must lie between 1 and 4096")
        return value


class TopicSettings(Section):
    """Names of the Kafka topics."""

    examples: str = "dolmen.examples"
    impressions: str = "dolmen.impressions"
    actions: str = "dolmen.actions"
    joiner_state: str = "dolmen.joiner-state"
    dead_letters: str = "dolmen.dead-letters"


class EventsSettings(Section):
    """Kafka: where it is, how to speak to it, and what to do when it lost its log."""

    bootstrap_servers: str | None = Field(default=None, description="host:port,…; none: the embedded broker of `up`")
    id: str = Field(default="dolmen", description="begins the group and transactional ids")
    topics: TopicSettings = TopicSettings()
    partitions: int = Field(default=1, ge=1, le=10_000, description="of a topic that does not exist yet")
    on_lost_log: Literal["earliest", "latest", "stop"] | None = Field(
        default=None, description='default: "earliest" where `up` started the broker, else "stop"'
    )
    max_ahead: Duration = Field(default=3_600_000, description="how far a ts may lie past its record's Kafka timestamp")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True


class TrainerSettings(Section):
    """The loop: batches, commits, where a fresh trainer starts."""

    seed: int = Field(default=1, ge=0)
    batch_size: int = Field(default=64, ge=1, description="examples; closed by the message that reaches it")
    max_batch_size: int = Field(default=2048, ge=1, description="examples, with backlog")
    commit_interval: Duration = 250
    commit_examples: int = Field(default=10_000, ge=1)
    start: str = Field(default="earliest", description="earliest, latest or an RFC 3339 time")
    deterministic: bool = False
    deterministic_idle: Duration = 2_000
    memory_budget: OptionalByteSize = Field(
        default=None, description="of rows, their index and filters, or none; what is colder is in Redis only"
    )
    dimension_search: Literal["off", "propose", "auto"] = Field(
        default="off", description="on the live stream; auto: plans are taken over, propose: only told"
    )
    search: OnlineSearchSettings = OnlineSearchSettings()
    slices: tuple[str, ...] = Field(
        default=(), max_length=8, description="features or sources by whose values the quality is told apart"
    )
    quality_window: int = Field(
        default=10_000, ge=100, le=1_000_000, description="examples, the last ones, of the live windowed metrics"
    )
    slice_values: int = Field(default=20, ge=1, le=1000, description="of a slice, the most frequent; the rest: other")

    @field_validator("start")
    @classmethod
    def _start(cls, value: str) -> str:
        if value not in ("earliest", "latest"):
            parse_rfc3339_ms(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_batch_size < self.batch_size:
            raise ValueError(f"max_batch_size ({self.max_batch_size}) is smaller than batch_size ({self.batch_size})")
        return self


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """All that one trainer process needs to know."""

    definition: "Definition"
    trainer: TrainerSettings
    store: StoreSettings
    events: EventsSettings
    metrics_host: str
    metrics_port: int
    rescue: Path


def parse_rfc3339_ms(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time.

    Raises:
        ValueError: If the text is none, or has no offset from UTC.

    >>> parse_rfc3339_ms("2022-04-25T00:00:00Z")
    1650844800000
    """
    from datetime import datetime

    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ValueError(f'{text!r} must be "earliest", "latest" or an RFC 3339 time such as "2026-01-31T12:00:00Z"')
    return round(time.timestamp() * 1000)
