"""Settings of the trainer: events, features, tasks, model, and the loop."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import orjson
import xxhash
from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr, field_validator, model_validator

from embedding_store.settings import AdmissionSettings, ByteSize, Duration, Section, StoreSettings, TableSettings

_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"
_ADMISSION = AdmissionSettings()
_TIME_SOURCES = ("time.hour", "time.weekday")
_AFTERWARDS = ("labels", "outcomes", "weight", "sampled", "correction")  # of an item

MemoryBudget = Annotated[
    ByteSize | None,
    BeforeValidator(lambda value: None if value == "none" else value, json_schema_input_type=str | int),
    PlainSerializer(lambda size: "none" if size is None else size, return_type=str | int),
]
"""A size, written as text, held as integer bytes; or ``"none"``."""


class FeatureSettings(Section):
    """One field of the model's input and where its value comes from."""

    name: str = Field(pattern=_NAME)
    kind: Literal["id", "ids", "number", "cross"]
    source: str | None = Field(default=None, description="user.*, context.*, item.*, time.hour or time.weekday")
    table: str | None = Field(default=None, description="default: a table of the feature's own name")
    pooling: Literal["mean", "sum"] = Field(default="mean", description="of kind ids")
    transform: Literal["none", "log"] = Field(default="none", description="of kind number, before standardisation")
    buckets: tuple[float, ...] | None = Field(default=None, description="of kind number: edges; makes it an id")
    inputs: tuple[str, ...] = Field(default=(), description="of kind cross: names of id features")
    count: bool = Field(default=True, description="false: looks up only; neither counts, admits nor renews expiry")

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = []
        if self.kind == "cross":
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
        if self.table is not None and not self.has_ids:
            faults.append("`table` does not go with a number without `buckets`")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def has_ids(self) -> bool:
        """Whether the field looks rows up (all but plain numbers)."""
        return self.kind != "number" or self.buckets is not None

    @property
    def table_name(self) -> str:
        """The table that holds the field's rows."""
        return self.table or self.name


class TaskSettings(Section):
    """One prediction: a label of the examples."""

    name: str = Field(pattern=_NAME, description="labels.NAME of an example's item")


class ModelSettings(Section):
    """The network over the embedded fields."""

    name: Literal["deepfm"] = "deepfm"
    hidden: tuple[int, ...] = Field(default=(128, 64), description="widths of the hidden layers")
    learning_rate: float = Field(default=1e-3, gt=0, description="Adam's, of the dense weights")
    score: str | None = Field(
        default=None, description="the task whose probability is the ranking score; default: the first"
    )

    @field_validator("hidden")
    @classmethod
    def _widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= width <= 4096 for width in value):
            raise ValueError("every width must lie between 1 and 4096")
        return value


class Definition(Section):
    """Everything that defines a prediction. A commit carries it, so trainer and ranker can never differ.

    `tables` lists every table that a feature needs, those that the configuration left out included; `retired` those
    that the store still holds though no feature needs them any more.
    """

    tables: tuple[TableSettings, ...]
    retired: tuple[TableSettings, ...] = ()
    features: tuple[FeatureSettings, ...]
    tasks: tuple[TaskSettings, ...]
    model: ModelSettings
    seed: int
    admission: AdmissionSettings = AdmissionSettings()

    def to_json(self) -> bytes:
        """Canonical JSON: equal definitions give equal bytes."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The definition that :meth:`to_json` wrote.

        Raises:
            pydantic.ValidationError: If the JSON is no definition.
        """
        return cls.model_validate_json(data)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ where definitions differ."""
        return xxhash.xxh3_64_hexdigest(self.to_json())


def define(
    tables: tuple[TableSettings, ...],
    features: tuple[FeatureSettings, ...],
    tasks: tuple[TaskSettings, ...],
    model: ModelSettings,
    seed: int,
    admission: AdmissionSettings = _ADMISSION,
) -> Definition:
    """Completes and cross-checks the parts of a definition.

    Raises:
        ValueError: With every cross-field fault, each naming its key.
    """
    faults: list[str] = []
    for key, names in (
        ("tables", [t.name for t in tables]),
        ("features", [f.name for f in features]),
        ("tasks", [t.name for t in tasks]),
    ):
        faults += [
            f"{key}: the name {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})
        ]
    if not features:
        faults.append("features: at least one is needed")
    if not tasks:
        faults.append("tasks: at least one is needed")
    by_name = {f.name: f for f in features}
    for feature in features:
        for name in feature.inputs:
            other = by_name.get(name)
            if other is None:
                faults.append(f"features.{feature.name}.inputs: there is no feature {name!r}")
            elif other.kind == "cross" or other.kind == "ids" or not other.has_ids:
                faults.append(f"features.{feature.name}.inputs: {name!r} must be of kind id, or a number with buckets")
    used = {f.table_name for f in features if f.has_ids}
    faults += [f"tables.{t.name}: no feature uses this table" for t in tables if t.name not in used]
    declared = {t.name: t for t in tables}
    complete = [declared.get(name) or TableSettings(name=name) for name in sorted(used)]
    if model.score is not None and model.score not in [t.name for t in tasks]:
        faults.append(f"model.score: there is no task {model.score!r}")
    if faults:
        raise ValueError("\n".join(faults))
    return Definition(
        tables=tuple(complete), features=features, tasks=tasks, model=model, seed=seed, admission=admission
    )


class TopicSettings(Section):
    """Names of the Kafka topics."""

    examples: str = "dolmen.examples"
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
    memory_budget: MemoryBudget = Field(
        default=None, description="bytes of rows, their index and filters; colder rows are in Redis only; or none"
    )

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

    definition: Definition
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
