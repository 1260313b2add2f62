"""What a command reads that takes ``--dataset`` or ``--file``: columns of labelled lists."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.datasets.reader import open_dataset, open_file
from trainer.errors import BadRecord
from trainer.example import Columns, examples_to_columns, parse_example

Stream = Iterator[tuple[Columns, NDArray[np.float64] | None]]
"""Columns, each with its examples' true probabilities where they are known."""


def read_columns(
    dataset: str | None, file: Path | None, limit: int | None, sources: tuple[str, ...], tasks: list[str]
) -> Stream:
    """The lists of a data set or of a file, in their order.

    Args:
        dataset: Its name; None: the file is read.
        file: NDJSON of the examples topic's messages, plain or .gz.
        limit: At most so many examples.
        sources: Those to take.
        tasks: Names of the labels.

    Raises:
        DatasetError: If there are no such data, or they cannot be read.
        BadRecord: At a line that is no message, naming it.
    """
    if dataset is not None:
        return _of_dataset(dataset, limit, sources, tasks)
    if file is None:
        raise ValueError("either `dataset` or `file` is needed")
    return _of_file(file, limit, sources, tasks)


def _of_dataset(name: str, limit: int | None, sources: tuple[str, ...], tasks: list[str]) -> Stream:
    return open_dataset(name, limit).columns_with_truth(sources, tasks)


def _of_file(path: Path, limit: int | None, sources: tuple[str, ...], tasks: list[str]) -> Stream:
    waiting: list[dict[str, Any]] = []
    left = limit or math.inf
    for number, line in enumerate(open_file(path), 1):
        try:
            message = parse_example(line, tasks)
        except BadRecord as error:
            raise BadRecord(error.reason, f"{path}, line {number}: {error.detail}") from None
        left -= len(message["items"])
        if left < 0:
            break
        waiting.append(message)
        if len(waiting) == 4096:
            yield examples_to_columns(waiting, sources, tasks), None
            waiting = []
    if waiting:
        yield examples_to_columns(waiting, sources, tasks), None
