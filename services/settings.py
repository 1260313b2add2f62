"""``dolmen.toml`` as a whole: the sections of all packages, read once per process."""

import os
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from embedding_store.serving import Codec
from embedding_store.settings import (
    AdmissionSettings,
    ByteSize,
    Duration,
    Section,
    StoreSettings,
    TableSettings,
    least_budget,
)
from services.archive_settings import ArchiveSettings
from services.secret_files import Environment, SecretFiles
from trainer.definition import Definition, define
from trainer.search.online import searched
from trainer.settings import (
    EventsSettings,
    FeatureSettings,
    ModelSettings,
    TaskSettings,
    TrainerSettings,
)
from trainer.slices import Slices
from trainer.statistic_settings import StatisticSettings

SHIPPED = (
    "kuairand", "kuairand_vectors", "movielens", "movielens_vectors", "movietweetings", "movietweetings_vectors",
    "synthetic",
)  # fmt: skip
_OF_DATASET = ("tables", "features", "statistics", "tasks", "outcomes", "model")


class ConfigError(Exception):
    """The configuration is wrong. The text names every faulty key, one a line."""


class RankerSettings(Section):
    """The HTTP service."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535, description="0: a free one")
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="a larger request is refused with 413")
    ready_lag: Duration = Field(default=5_000, description="/readyz fails when the replica is older")
    replica: Literal["full", "cached"] = Field(
        default="full", description="cached: holds the rows that are asked for, and reads others from the store"
    )
    cache_memory: ByteSize = Field(
        default=256 << 20, ge=1 << 20, description="of a cached replica's rows, headers and index"
    )
    codec: Codec = Field(default="float32", description="how the replica holds vectors")
    features_bytes: ByteSize = Field(default=16 << 10, ge=64, description="of one visitor's or item's stored features")
    features_count: int = Field(default=1_000_000, ge=1, description="visitors, and items, with stored features")
    features_cache: ByteSize = Field(default=64 << 20, ge=1 << 20, description="of stored features in memory, about")
    features_fresh: Duration = Field(default=5_000, description="how long they are kept before they are read again")


class OutcomeSettings(Section):
    """A number that comes with the labels: what an action brought."""

    name: str = Field(min_length=1, max_length=64, description="outcomes.NAME of an example's item")
    action: str = Field(min_length=1, description="the type of the action")
    take: Literal["value"] = Field(default="value", description="what of the action is taken")


_Share = Annotated[float, Field(gt=0, le=1)]


class JoinerSettings(Section):
    """From impressions and actions to examples. Times are event time unless said."""

    emit: Literal["window", "eager"] = Field(
        default="window", description="eager: a positive leaves with its action, the rest when the window closes"
    )
    attribution_window: Duration | dict[str, Duration] = Field(
        default=60_000, description="how long after its impression an action counts; or a table per action"
    )
    late_window: Duration = Field(default=0, description="how long after the close a correction is still sent")
    correction_weight: float = Field(default=1.0, gt=0, description="of the example that a late action makes")
    negatives: _Share | dict[str, _Share] = Field(default=1.0, description="share that is kept; or a table per task")
    idle_after: Duration = Field(
        default=5_000, description="wall time; a partition that is silent for longer at its end does not hold others up"
    )
    out_of_orderness: Duration = Field(default=5_000, description="how far events of a partition may be out of order")
    allowed_skew: Duration = Field(default=0, description="how far an action's clock may lie before its impression's")
    memory_budget: ByteSize = Field(default=256 << 20, description="of pending impressions; the rest waits on disk")
    commit_interval: Duration = Field(default=100, description="wall time between transactions")
    partitions: tuple[int, ...] | None = Field(default=None, description="those of this process; default: all")


class MetricsSettings(Section):
    """Prometheus metrics of a process without HTTP of its own."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="0: a free one")


class LocalSettings(Section):
    """Ports of the embedded servers that `dolmen up` starts."""

    redis_port: int = Field(default=0, ge=0, le=65535, description="0: a free one")
    kafka_port: int = Field(default=0, ge=0, le=65535, description="0: a free one")


class Settings(BaseSettings):
    """The effective settings: environment over file over defaults."""

    model_config = SettingsConfigDict(env_prefix="DOLMEN_", env_nested_delimiter="__", extra="forbid", frozen=True)

    store: StoreSettings = StoreSettings()
    events: EventsSettings = EventsSettings()
    admission: AdmissionSettings = AdmissionSettings()
    tables: tuple[TableSettings, ...] = ()
    features: tuple[FeatureSettings, ...] = ()
    statistics: tuple[StatisticSettings, ...] = ()
    tasks: tuple[TaskSettings, ...] = ()
    outcomes: tuple[OutcomeSettings, ...] = ()
    model: ModelSettings = ModelSettings()
    trainer: TrainerSettings = TrainerSettings()
    joiner: JoinerSettings = JoinerSettings()
    archive: ArchiveSettings = ArchiveSettings()
    ranker: RankerSettings = RankerSettings()
    metrics: MetricsSettings = MetricsSettings()
    local: LocalSettings = LocalSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        least = least_budget(self.definition().tables, self.admission)
        if self.trainer.memory_budget is not None and self.trainer.memory_budget < least:
            raise ValueError(
                f"trainer.memory_budget: {self.trainer.memory_budget} bytes are too few; filters and an empty index "
                f"need half of {least} bytes, admission.memory among them"
            )
        Slices(self.trainer.slices, self.features)
        if self.trainer.dimension_search != "off":
            searched(self.definition().tables, self.trainer.search.tables)
        faults = list(_joiner_faults(self.joiner, self.tasks, self.outcomes))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def definition(self) -> Definition:
        """What defines a prediction under these settings."""
        return define(
            self.tables, self.features, self.tasks, self.model, self.trainer.seed, self.admission, self.statistics
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what the file said (which arrives as init values)."""
        return Environment(settings_cls), SecretFiles(settings_cls), init_settings


def _joiner_faults(
    joiner: JoinerSettings, tasks: Iterable[TaskSettings], outcomes: Iterable[OutcomeSettings]
) -> Iterable[str]:
    windows, kept = joiner.attribution_window, joiner.negatives
    if isinstance(windows, dict):
        for action in sorted({*(t.action_name for t in tasks), *(o.action for o in outcomes)} - set(windows)):
            yield f"joiner.attribution_window: no window for the action {action!r}"
        longest = max((windows.get(t.action_name, 0) for t in tasks), default=0)
        for outcome in outcomes:
            if windows.get(outcome.action, 0) > longest:
                yield (
                    f"joiner.attribution_window: {outcome.action!r} of the outcome {outcome.name!r} waits longer than "
                    "any task, so that nothing would carry it"
                )
    if isinstance(kept, dict):
        for name in sorted(set(kept) - {t.name for t in tasks}):
            yield f"joiner.negatives: there is no task {name!r}"
    names = [outcome.name for outcome in outcomes]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"outcomes: the name {name!r} is given twice"


def masked(url: str) -> str:
    """An address without the password in it.

    >>> masked("redis://me:secret@host:6379/0")
    'redis://me:**********@host:6379/0'
    """
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:**********@", url)


def shipped_config(dataset: str) -> dict[str, Any]:
    """The configuration that the product ships for a data set of its own.

    Raises:
        ConfigError: If there is none of that name.
    """
    if dataset not in SHIPPED:
        from services.datasets.reader import NAMES

        raise ConfigError(f"--dataset: there is no {dataset!r}; there are {', '.join(NAMES)}")
    return tomllib.loads((resources.files("services.datasets") / f"{dataset}.toml").read_text())


def load_settings(config: Path | None = None, dataset: str | None = None) -> Settings:
    """Reads the settings of one process.

    Args:
        config: A ``dolmen.toml``; default: the file that ``DOLMEN_CONFIG`` names, else the shipped configuration.
        dataset: Whose shipped configuration holds when no file is given; default KuaiRand's.

    Raises:
        ConfigError: With one line for every faulty key.
    """
    path = config or (Path(os.environ["DOLMEN_CONFIG"]) if os.environ.get("DOLMEN_CONFIG") else None)
    if path is None:
        return _validated(shipped_config(dataset or "kuairand"), "the shipped configuration")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    if not values.get("features"):
        shipped = shipped_config(dataset or "kuairand")
        values = {**{key: shipped[key] for key in _OF_DATASET if key in shipped}, **values}
    return _validated(values, str(path))


def _validated(values: dict[str, Any], origin: str) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = [
            line for fault in error.errors(include_url=False, include_context=False) for line in _lines(fault, values)
        ]
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None
    except OSError as error:
        raise ConfigError(f"{error.filename}: a secret's file cannot be read: {error.strerror}") from error


def _lines(fault: Any, values: dict[str, Any]) -> Iterable[str]:
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = "there is no such key"
    key = _key(fault["loc"], values)
    for line in message.splitlines():
        yield f"{key}: {line}" if key else line


def _key(loc: tuple[int | str, ...], values: Any) -> str:
    """``("tables", 0, "dim")`` as ``tables[0].dim (name 'video')``."""
    text, named = "", ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
        if isinstance(part, int) and isinstance(values, dict) and isinstance(values.get("name"), str):
            named = f" (name {values['name']!r})"
    return text + named
