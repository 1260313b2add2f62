"""Settings of the store: where Redis is, and what each table is like."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from embedding_store.encodings.settings import EncodingSettings

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNITS_BYTES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_duration_ms(value: object) -> int:
    """Milliseconds of a duration such as ``"250ms"``, ``"60s"`` or ``"30d"``.

    Raises:
        ValueError: If the text is no duration.

    >>> parse_duration_ms("1.5s"), parse_duration_ms("30d")
    (1500, 2592000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{value!r} is no duration; write a number with ms, s, m, h or d, such as "250ms" or "30d"')
    return round(float(match[1]) * _UNITS_MS[match[2]])


def format_duration(ms: int) -> str:
    """The shortest text that :func:`parse_duration_ms` reads back.

    >>> format_duration(250), format_duration(60_000), format_duration(86_400_000)
    ('250ms', '1m', '1d')
    """
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"


def parse_bytes(value: object) -> int:
    """Bytes of a size such as ``"64MiB"``; a plain integer counts bytes.

    Raises:
        ValueError: If the text is no size.

    >>> parse_bytes("64MiB")
    67108864
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _UNITS_BYTES:
        raise ValueError(f'{value!r} is no size; write a number with KiB, MiB or GiB, such as "64MiB"')
    return round(float(match[1]) * _UNITS_BYTES[match[2].lower()])


def _parse_optional_duration(value: object) -> int | None:
    return None if value is None or value == "none" else parse_duration_ms(value)


Duration = Annotated[
    int,
    BeforeValidator(parse_duration_ms, json_schema_input_type=str),
    PlainSerializer(format_duration, return_type=str),
]
"""A duration, written as text, held as integer milliseconds."""

OptionalDuration = Annotated[
    int | None,
    BeforeValidator(_parse_optional_duration, json_schema_input_type=str),
    PlainSerializer(lambda ms: "none" if ms is None else format_duration(ms), return_type=str),
]
"""A duration or ``"none"``."""

ByteSize = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=str | int)]
"""A size, written as text, held as integer bytes."""

OptionalByteSize = Annotated[
    int | None,
    BeforeValidator(lambda v: None if v is None or v == "none" else parse_bytes(v), json_schema_input_type=str | int),
    PlainSerializer(lambda size: "none" if size is None else size, return_type=str | int),
]
"""A size or ``"none"``."""


class Section(BaseModel):
    """A frozen part of the configuration that knows all of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


OptimizerName = Literal["adagrad", "adagrad_elementwise", "adam", "ftrl"]
STATE_WIDTHS = {"adagrad": (1, 0), "adagrad_elementwise": (0, 1), "adam": (1, 2), "ftrl": (0, 2), "gaussian": (0, 0)}
"""Numbers of optimizer state: of a part of a row, and of each of the part's numbers. The linear weight is one part, the
vector another."""

WINDOW_PARTS = 8
ACCUMULATOR_WIDTHS = {"count": 2, "sum": 2, "window_count": 2 + WINDOW_PARTS, "window_sum": 2 + WINDOW_PARTS}
"""float32 numbers of an accumulator; `last` and `time` take as many as they hold values."""
SPARE = 3
"""Values and items kept beyond those that are shown: they stand in for what a list's own labels brought."""


class Accumulator(Section):
    """What a row of a statistics table accumulates of one input of the examples.

    `count`, `sum`: of the sightings where the input has a value, perhaps decayed. `window_count`, `window_sum`: the
    same over the last `window_ms` of event time, in eighths. `last`: the latest `length` values. `time`: the latest
    `length` event times. An input without a value changes nothing.
    """

    kind: Literal["count", "sum", "window_count", "window_sum", "last", "time"]
    of: str = Field(description="name of the input")
    half_life_ms: int | None = Field(default=None, gt=0, description="of count and sum; event time")
    window_ms: int | None = Field(default=None, gt=0, description="of window_count and window_sum; event time")
    length: int = Field(default=1, ge=1, le=32 + SPARE, description="of last and time")

    @property
    def width(self) -> int:
        """float32 numbers that it takes."""
        if self.kind == "time":
            return 2 * self.length
        return 1 + self.length if self.kind == "last" else ACCUMULATOR_WIDTHS[self.kind]


_WIDEST = 256
WIDEST_ROW = 4000
"""float32 numbers of a row of statistics or of a sequence, at most."""
SEQUENCE_ITEM = 6
"""float32 numbers of one item of a sequence: its id, its time and its outcome."""


class TableSettings(Section):
    """One table: ids, rows, cold row, optimizer, admission and expiry. Its features decide what its rows hold."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")
    kind: Literal["weights", "statistics", "sequence"] = Field(
        default="weights", description="what its rows hold; set by what uses the table"
    )
    dim: int = Field(default=8, ge=0, le=WIDEST_ROW, description="numbers of a row's vector")
    optimizer: OptimizerName = "adagrad"
    linear: OptimizerName | Literal["gaussian"] | None = Field(
        default=None, description="optimizer of the linear weight, set by model.wide; none: the table's"
    )
    tasks: int = Field(default=1, ge=1, le=64, description="of Gaussian weights: so many means and variances a row")
    prior_variance: float = Field(default=0.1, gt=0, description="of Gaussian weights; set by the feature")
    accumulators: tuple[Accumulator, ...] = Field(
        default=(), description="of a statistics table; set by [[statistics]]"
    )
    length: int = Field(default=0, ge=0, le=500 + SPARE, description="of a sequence table, items; set by the feature")
    learning_rate: float = Field(default=0.01, gt=0, description="of the vector")
    linear_learning_rate: float = Field(default=0.03, ge=0, description="of the linear weight; 0: it stays zero")
    initial_accumulator: float = Field(default=0.01, gt=0, description="of Adagrad")
    l1: float = Field(default=0.0, ge=0, description="of FTRL")
    l2: float = Field(default=0.0, ge=0, description="of FTRL")
    beta: float = Field(default=1.0, ge=0, description="of FTRL")
    init_std: float = Field(default=0.01, ge=0, description="standard deviation of a new row's vector")
    admit_after: int = Field(default=1, ge=1, le=255, description="sightings before an id gets a row")
    admission: Literal["count", "probability"] = Field(
        default="count", description="probability: at each sighting with 1 - 0.05^(1/admit_after)"
    )
    expire_after: OptionalDuration = Field(default=None, description="event time after which an unseen row goes")
    encoding: EncodingSettings | None = Field(
        default=None, description='how the table is held; live, {kind = "hashed", buckets = N} or none'
    )

    @field_validator("dim")
    @classmethod
    def _dim(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("kind") == "weights" and value > _WIDEST:
            raise ValueError(f"Input should be less than or equal to {_WIDEST}")
        return value

    @model_validator(mode="after")
    def _rates(self) -> "TableSettings":
        if self.linear_learning_rate == 0 and (self.linear or self.optimizer) == "ftrl":
            raise ValueError("linear_learning_rate: 0 does not go with ftrl, which divides by it")
        return self

    @property
    def lead(self) -> int:
        """Numbers of a row in front of its vector: the linear weight, or mean and variance of each task."""
        if self.kind != "weights":
            return 0
        return 2 * self.tasks if self.linear == "gaussian" else 1

    @property
    def linear_state(self) -> int:
        """Numbers of optimizer state of the linear weight."""
        if self.kind != "weights":
            return 0
        return sum(STATE_WIDTHS[self.linear or self.optimizer])

    def state_width(self, dim: int) -> int:
        """Numbers of optimizer state in a row that keeps so many numbers of the vector."""
        fixed, per = STATE_WIDTHS[self.optimizer]
        return 0 if self.kind != "weights" else self.linear_state + (fixed + per * dim if dim else 0)

    def dim_of(self, numbers: int) -> int:
        """How many numbers of the vector a strip of so many numbers, state included, keeps."""
        of_vector = numbers - self.lead - self.linear_state
        if self.kind != "weights" or not of_vector:
            return of_vector
        fixed, per = STATE_WIDTHS[self.optimizer]
        return (of_vector - fixed) // (1 + per)


class AdmissionSettings(Section):
    """The filter that counts sightings of ids that have no row yet; used by tables with `admit_after` above 1."""

    memory: ByteSize = Field(default=16 << 20, ge=1 << 16, description="of all counters; never grows")
    window: Duration = Field(default=7 * 86_400_000, description="event time over which sightings count")


def least_budget(tables: Iterable[TableSettings], admission: AdmissionSettings) -> int:
    """Bytes that a memory budget must have, half of them for rows."""
    counting = any(table.admit_after > 1 and table.admission == "count" for table in tables)
    return 2 * ((1 << 20) + (admission.memory if counting else 0))


class StoreSettings(Section):
    """Where the parameters are kept, and how much log may stand in front of them."""

    url: str | None = Field(default=None, description="redis:// or rediss:// URL; none: the embedded server of `up`")
    username: str | None = None
    password: SecretStr | None = None
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    prefix: str = Field(default="dolmen", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    timeout: Duration = Field(default=5_000, description="of one command")
    tune_server: bool = Field(
        default=True, description="raise Redis' hash-max-listpack-value to 256 where it is lower and we may"
    )
    fold_interval: Duration = Field(default=2_000, description="longest wait of a commit for the materializer")
    log_bytes: ByteSize = Field(
        default=256 << 20, ge=1 << 20, description="bound of the commit log; then the trainer waits"
    )
    lease: Duration = Field(default=30_000, description="how long a bootstrapping reader holds trimming back")

    @model_validator(mode="after")
    def _speaks_tls(self) -> "StoreSettings":
        if (self.ssl_ca_certs or self.ssl_certfile or self.ssl_keyfile) and not (self.url or "").startswith("rediss"):
            raise ValueError("store.ssl_…: the connection is not encrypted; write rediss:// in store.url")
        return self
