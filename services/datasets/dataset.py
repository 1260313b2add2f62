"""A data set: where it came from, and its examples as messages and as columns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.datasets.block import Block, rechunk, to_columns, to_messages
from trainer.example import Columns

_MESSAGE_LISTS = 2048


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which terms the data may be used, and whom to name."""

    name: str
    attribution: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled lists in event-time order. Every iteration starts from the first and gives the same.

    Attributes:
        name: As on the command line.
        title: For people.
        licence: Of the data.
        origin: The folder that it was read from, or how it was made.
        examples: How many (item, labels) there are.
        tasks: Names of the labels.
        has_truth: Whether the true probability of the first task's label is known.
        blocks: The lists; each call starts anew.
    """

    name: str
    title: str
    licence: Licence
    origin: str
    examples: int
    tasks: tuple[str, ...]
    has_truth: bool
    blocks: Callable[[], Iterator[Block]]

    def messages(self) -> Iterator[dict[str, Any]]:
        """Wire messages of ``dolmen.examples``, one a list."""
        for block in rechunk(self.blocks(), _MESSAGE_LISTS):
            yield from to_messages(block)

    def columns(self, sources: Sequence[str], tasks: Sequence[str], chunk_lists: int = 8192) -> Iterator[Columns]:
        """The same values as ``examples_to_columns`` would give, straight from arrays.

        Args:
            sources: Those to take, such as ``user.id``.
            tasks: Label names, the columns of ``labels``.
            chunk_lists: Lists in each of the columns; the last may hold fewer.

        Raises:
            DatasetError: If the data set has none of the labels.
        """
        for columns, _ in self.columns_with_truth(sources, tasks, chunk_lists):
            yield columns

    def columns_with_truth(
        self, sources: Sequence[str], tasks: Sequence[str], chunk_lists: int = 8192
    ) -> Iterator[tuple[Columns, NDArray[np.float64] | None]]:
        """As :meth:`columns`, each with the true probabilities (float64[B]) where they are known."""
        for block in rechunk(self.blocks(), chunk_lists):
            yield to_columns(block, sources, tasks), block.truth
