"""Everything that defines a prediction: tables, features, statistics, tasks, model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import orjson
import xxhash

from embedding_store import accumulators, sequences
from embedding_store.settings import SPARE, Accumulator, AdmissionSettings, Section, TableSettings
from trainer.formula import Formula
from trainer.settings import FeatureSettings, ModelSettings, TaskSettings
from trainer.statistic_settings import StatisticSettings

_ADMISSION = AdmissionSettings()
_VISITOR = "user.id"
_WITHOUT_VECTORS = ("residual",)
_SET_BY_USE = frozenset({"kind", "linear", "tasks", "accumulators", "length"})
_OF_EVERY_TABLE = frozenset({"name", "admit_after", "admission", "expire_after"})
Key = tuple[str, ...]
"""Names of the features whose crossed ids are meant; one name: its own ids."""


class Field(NamedTuple):
    """One id input of the model.

    Attributes:
        name: Of the feature or statistic.
        table: Whose rows it looks up.
        mean: Whether its rows are averaged rather than summed.
        counted: Whether its ids count as seen.
    """

    name: str
    table: str
    mean: bool = True
    counted: bool = True


class Definition(Section):
    """Everything that defines a prediction. A commit carries it, so trainer and ranker can never differ.

    `tables` lists every table that a feature or statistic needs, those that the configuration left out included;
    `retired` those that the store still holds though nothing needs them any more.
    """

    tables: tuple[TableSettings, ...]
    retired: tuple[TableSettings, ...] = ()
    features: tuple[FeatureSettings, ...]
    statistics: tuple[StatisticSettings, ...] = ()
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

    @property
    def fields(self) -> tuple[Field, ...]:
        """The model's id inputs, in their order: features, then statistics with buckets."""
        some = [
            Field(f.name, f.table_name, f.pooling == "mean", f.count) for f in self.features if f.has_ids and f.input
        ]
        return (*some, *(Field(s.name, s.table_name) for s in self.statistics if s.buckets and s.input))

    @property
    def sequence(self) -> FeatureSettings | None:
        """The visitor's past, if the definition has one."""
        return next((f for f in self.features if f.kind == "sequence"), None)

    @property
    def target(self) -> int | None:
        """The field whose ids the sequence holds."""
        past = self.sequence
        return None if past is None else next(i for i, f in enumerate(self.fields) if f.name == _item_of(self, past))

    @property
    def gaussian(self) -> bool:
        """Whether the linear weights are means and variances."""
        return self.model.wide == "gaussian"


def _item_of(definition: Definition, past: FeatureSettings) -> str:
    """The feature whose ids enter a sequence."""
    return next(f.name for f in definition.features if _is_item_of(past, f))


def _is_item_of(past: FeatureSettings, feature: FeatureSettings) -> bool:
    of_item = feature.kind == "id" and (feature.source or "").startswith("item.")
    return of_item and feature.input and feature.table_name == past.table


def sequence_keys(definition: Definition) -> tuple[Key, Key]:
    """Whose past a sequence is, and what enters it, as keys.

    Raises:
        StopIteration: If the definition has no sequence.
    """
    past = next(f for f in definition.features if f.kind == "sequence")
    source = past.source or _VISITOR
    visitor = next(f.name for f in definition.features if f.kind == "id" and f.source == source)
    return (visitor,), (_item_of(definition, past),)


def define(
    tables: tuple[TableSettings, ...],
    features: tuple[FeatureSettings, ...],
    tasks: tuple[TaskSettings, ...],
    model: ModelSettings,
    seed: int,
    admission: AdmissionSettings = _ADMISSION,
    statistics: tuple[StatisticSettings, ...] = (),
) -> Definition:
    """Completes and cross-checks the parts of a definition.

    Raises:
        ValueError: With every cross-field fault, each naming its key.
    """
    faults = [*_name_faults(tables, features, statistics, tasks), *_input_faults(features, statistics)]
    if not features:
        faults.append("features: at least one is needed")
    if not tasks:
        faults.append("tasks: at least one is needed")
    if model.score is not None:
        try:
            Formula(model.score, [t.name for t in tasks])
        except ValueError as error:
            faults.append(f"model.score: {error}")
    complete, more = _tables(tables, features, statistics, model, len(tasks))
    faults += more
    if faults:
        raise ValueError("\n".join(faults))
    return Definition(
        tables=complete, features=features, statistics=statistics, model=model, seed=seed, admission=admission,
        tasks=tuple(TaskSettings(name=t.name) for t in tasks),  # how a label is made is no part of a prediction
    )  # fmt: skip


def _name_faults(
    tables: Sequence[TableSettings],
    features: Sequence[FeatureSettings],
    statistics: Sequence[StatisticSettings],
    tasks: Sequence[TaskSettings],
) -> Iterable[str]:
    for key, names in (
        ("tables", [t.name for t in tables]),
        ("features", [f.name for f in features]),
        ("tasks", [t.name for t in tasks]),
        ("statistics", [s.name for s in statistics]),
    ):
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"{key}: the name {name!r} is given twice"
    for name in sorted({f.name for f in features} & {s.name for s in statistics}):
        yield f"statistics.{name}: there is a feature of this name"


def _input_faults(features: Sequence[FeatureSettings], statistics: Sequence[StatisticSettings]) -> Iterable[str]:
    by_name = {f.name: f for f in features}
    bucketed = {s.name for s in statistics if s.buckets}
    for feature in features:
        for name in feature.inputs:
            other = by_name.get(name)
            if other is None and name not in bucketed:
                yield f"features.{feature.name}.inputs: there is no feature {name!r}, and no statistic with buckets"
            elif other is not None and (other.kind in ("cross", "ids") or not other.has_ids):
                yield f"features.{feature.name}.inputs: {name!r} must be of kind id, or a number with buckets"
    for statistic in statistics:
        for name in statistic.by:
            other = by_name.get(name)
            if other is None or other.kind in ("cross", "ids") or not other.has_ids:
                yield f"statistics.{statistic.name}.by: {name!r} must be a feature of kind id, or a number with buckets"
    owners: dict[str, Key] = {}
    for statistic in statistics:
        if owners.setdefault(statistic.statistics_table, statistic.by) != statistic.by:
            yield (
                f"statistics.{statistic.name}.by: {list(statistic.by)} and {list(owners[statistic.statistics_table])} "
                f"make one table name, {statistic.statistics_table!r}; rename a feature"
            )
    pasts = [f for f in features if f.kind == "sequence"]
    for past in pasts[1:]:
        yield f"features.{past.name}: there is a sequence already, {pasts[0].name!r}"
    for past in pasts:
        if not any(_is_item_of(past, f) for f in features):
            yield f"features.{past.name}.table: no feature of kind id from item.* looks up {past.table!r}"
        source = past.source or _VISITOR
        if not any(f.kind == "id" and f.source == source for f in features):
            yield f"features.{past.name}: a feature of kind id from {source} is needed; it says whose past it is"


def _tables(
    tables: Sequence[TableSettings],
    features: Sequence[FeatureSettings],
    statistics: Sequence[StatisticSettings],
    model: ModelSettings,
    tasks: int,
) -> tuple[tuple[TableSettings, ...], list[str]]:
    """Every table that is needed, and faults."""
    users: list[FeatureSettings | StatisticSettings] = [
        *(f for f in features if f.has_ids and f.input),
        *(s for s in statistics if s.buckets and s.input),
    ]
    declared = {t.name: t for t in tables}
    made: dict[str, TableSettings] = {}
    faults = []
    for name in sorted({user.table_name for user in users}):
        table = declared.get(name) or TableSettings(name=name)
        if model.name in _WITHOUT_VECTORS and "dim" not in table.model_fields_set:
            table = table.model_copy(update={"dim": 0})
        if model.name not in _WITHOUT_VECTORS and table.dim == 0:
            faults.append(f"tables.{name}.dim: must be at least 1; model {model.name!r} is made of vectors")
        variances = {user.prior_variance for user in users if user.table_name == name and user.prior_variance}
        if len(variances) > 1:
            faults.append(f"tables.{name}: its features give several values of prior_variance")
        changes: dict[str, object] = {"linear": model.wide} if model.wide else {}
        if model.wide == "gaussian":
            changes |= {"tasks": tasks, "prior_variance": next(iter(variances), table.prior_variance)}
        faults += [f"tables.{name}.{key}: what uses the table sets it" for key in _given(declared, name, _SET_BY_USE)]
        if table.encoding and (table.encoding.kind != "hashed" or table.encoding.hashes > 1):
            faults.append(
                f"tables.{name}.encoding: a live table takes kind hashed with one hash; dimensions per block "
                "are a plan's business (`dolmen store plan`), int8 is `ranker.codec`, one width is `dim`"
            )
        made[name] = table.model_copy(update=changes)
    others = [*_statistics_tables(statistics), *(_sequence_table(f) for f in features if f.kind == "sequence")]
    for table in others:
        if table.name in made:
            faults.append(f"tables.{table.name}: the name is used twice")
        own = declared.get(table.name, table)
        rest = frozenset(TableSettings.model_fields) - _OF_EVERY_TABLE
        faults += [
            f"tables.{table.name}.{key}: does not go with a table of {table.kind}"
            for key in _given(declared, table.name, rest)
        ]
        made[table.name] = table.model_copy(update={key: getattr(own, key) for key in _OF_EVERY_TABLE})
    faults += [f"tables.{name}: no feature uses this table" for name in declared if name not in made]
    return tuple(made.values()), faults


def _given(declared: Mapping[str, TableSettings], name: str, keys: frozenset[str]) -> list[str]:
    """Those of some keys that the configuration gives for a table."""
    return sorted(declared[name].model_fields_set & keys) if name in declared else []


def _statistics_tables(statistics: Sequence[StatisticSettings]) -> list[TableSettings]:
    found: dict[str, list[Accumulator]] = {}
    for statistic in statistics:
        some = found.setdefault(statistic.statistics_table, [])
        some += [a for a in statistic.accumulators if a not in some]
    return [statistics_table(name, some) for name, some in sorted(found.items())]


def statistics_table(name: str, some: Sequence[Accumulator]) -> TableSettings:
    """A statistics table with these accumulators."""
    width = accumulators.row_width(some)
    return TableSettings(name=name, kind="statistics", accumulators=tuple(some), dim=width)


def _sequence_table(feature: FeatureSettings) -> TableSettings:
    length = feature.items + SPARE
    return TableSettings(name=feature.name, kind="sequence", length=length, dim=sequences.row_width(length))
