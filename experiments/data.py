"""Streams and shipped configurations, as experiments take and change them."""

from collections.abc import Callable, Sequence
from typing import Any

from services.datasets.errors import DatasetError
from services.datasets.reader import open_dataset
from services.settings import Settings, load_settings
from trainer.definition import Definition, define
from trainer.evaluation import Evaluation, evaluate
from trainer.features import Featurizer

Change = Callable[[Settings], Settings]


def there(names: Sequence[str]) -> tuple[list[str], str]:
    """Which of some data sets are here, and a sentence on those that are not.

    Raises:
        DatasetError: If none is.
    """
    found, missing = [], []
    for name in names:
        try:
            open_dataset(name, limit=1)
            found.append(name)
        except DatasetError as error:
            missing.append(name)
            last = error
    if not found:
        raise last
    return found, f"Left out, for the data are not here: {', '.join(missing)}." if missing else ""


def shipped(dataset: str, seed: int, *changes: Change) -> tuple[Definition, int]:
    """A data set's shipped configuration with another seed and some changes, and its batch size."""
    settings = load_settings(dataset=dataset)
    for change in changes:
        settings = change(settings)
    return (
        define(
            settings.tables, settings.features, settings.tasks, settings.model, seed, settings.admission,
            settings.statistics,
        ),
        settings.trainer.batch_size,
    )  # fmt: skip


def without_statistics(settings: Settings) -> Settings:
    """The same without statistics and what is crossed with them."""
    names = {statistic.name for statistic in settings.statistics}
    kept = tuple(f for f in settings.features if not names & set(f.inputs))
    return settings.model_copy(update={"statistics": (), "features": kept})


def with_model(**changes: object) -> Change:
    """A change of the model's keys."""
    return lambda settings: settings.model_copy(update={"model": settings.model.model_copy(update=changes)})


def passed(
    dataset: str, definition: Definition, batch_size: int, limit: int | None = None, **options: Any
) -> Evaluation:
    """One pass over a stream, each list scored before it is learned.

    Args:
        dataset: Its name.
        definition: What to learn.
        batch_size: See :func:`~trainer.evaluation.evaluate`.
        limit: At most so many examples.
        options: Of synthetic data.
    """
    data = open_dataset(dataset, limit, **options)
    stream = data.columns_with_truth(Featurizer(definition).sources, [task.name for task in definition.tasks])
    return evaluate(definition, stream, batch_size)
