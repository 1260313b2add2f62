"""Messages that were read but not learned yet, and how they are cut into batches.

A run is a row of whole messages from the oldest on; it is closed by the message that brings it to the wanted number
of examples, or before one that tells of a list in the run. So where it ends depends on the messages alone, never on
when or how they arrived.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from trainer.batch import Batch
from trainer.earlier import Lists
from trainer.errors import BadRecord
from trainer.example import examples_to_columns, parse_example
from trainer.features import Featurizer
from trainer.reader import Record
from trainer.slices import Slices
from trainer.values import BadValue


@dataclass(frozen=True, slots=True)
class Message:
    """One record and what became of it.

    Attributes:
        record: As read.
        examples: How many it holds; 0 if it is faulty.
        fault: Why it cannot be learned from.
        request: Of which list it is; 0 if it does not say.
        tells: Whether it tells of earlier messages of the list.
    """

    record: Record
    examples: int
    fault: BadRecord | None = None
    request: int = 0
    tells: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Messages in a row and the examples of those that are sound; `batch` is None if there are none."""

    messages: list[Message]
    batch: Batch | None


class Pending:
    """A queue of decoded messages.

    Args:
        featurizer: Of the current definition.
        tasks: Names of the labels.
        max_ahead_ms: How far a ``ts`` may lie past its record's Kafka timestamp.
        slices: By whose values the quality is told apart.
    """

    def __init__(
        self, featurizer: Featurizer, tasks: Sequence[str], max_ahead_ms: int, slices: Slices | None = None
    ) -> None:
        self._featurizer = featurizer
        self._tasks = tuple(tasks)
        self._max_ahead_ms = max_ahead_ms
        self._slices = slices or Slices()
        self._sources = (*featurizer.sources, *self._slices.sources)
        self._messages: deque[Message] = deque()
        self._batches: deque[Batch] = deque()
        self.examples = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, records: Sequence[Record]) -> None:
        """Decodes records and puts them at the end. A faulty one stays in its place, with its fault."""
        parsed: list[dict[str, object] | BadRecord] = []
        for record in records:
            latest = record.timestamp_ms + self._max_ahead_ms if record.timestamp_ms >= 0 else None
            try:
                parsed.append(parse_example(record.value, self._tasks, latest))
            except BadRecord as error:
                parsed.append(error)
        batch = self._featurize(parsed, _origins(records))
        sound = 0
        for record, message in zip(records, parsed, strict=True):
            if isinstance(message, BadRecord) or batch is None:
                self._messages.append(Message(record, 0, message if isinstance(message, BadRecord) else None))
                continue
            size, told = int(batch.sizes[sound]), bool(batch.earlier.counts[sound])
            self._messages.append(Message(record, size, None, int(batch.earlier.requests[sound]), told))
            sound += 1
        if batch is not None:
            self._batches.append(batch)
            self.examples += len(batch)

    def _featurize(self, parsed: "list[dict[str, object] | BadRecord]", origins: NDArray[np.uint64]) -> Batch | None:
        """The batch of all sound messages. A message with a value that its field cannot take becomes its fault."""
        places = [i for i, message in enumerate(parsed) if not isinstance(message, BadRecord)]
        if not places:
            return None
        try:
            return self._featurize_all([parsed[i] for i in places], origins[places])
        except BadValue:
            parts = []
        for i in places:
            try:
                parts.append(self._featurize_all([parsed[i]], origins[[i]]))
            except BadValue as error:
                part, _, path = error.source.partition(".")
                lists = {"item": "items", "told": "told"}
                source = f"{lists[part]}[{error.place}].{path}" if part in lists else error.source
                parsed[i] = BadRecord("value", f"`{source}`: {error.what}")
        return Batch.join(parts) if parts else None

    def _featurize_all(self, messages: Sequence[Any], origins: NDArray[np.uint64]) -> Batch:
        columns = examples_to_columns(messages, self._sources, self._tasks)
        return replace(self._featurizer.featurize(columns, origins), slices=self._slices.ids(columns))

    def take(self, examples: int, whole: bool = True) -> Run | None:
        """The next run.

        Args:
            examples: How many close it.
            whole: Whether fewer will not do; if False, what is there is taken.

        Returns:
            The run, or None if there is not enough.
        """
        if not self._messages or (whole and self.examples < examples):
            return None
        messages: list[Message] = []
        found = lists = 0
        own = Lists()
        while self._messages and found < examples:
            if own.end_before(self._messages[0].request, self._messages[0].tells):
                break
            message = self._messages.popleft()
            messages.append(message)
            found += message.examples
            lists += message.examples > 0
        self.examples -= found
        return Run(messages, self._take_lists(lists))

    def _take_lists(self, lists: int) -> Batch | None:
        parts: list[Batch] = []
        while lists:
            batch = self._batches.popleft()
            if batch.sizes.size > lists:
                self._batches.appendleft(batch.lists(lists, batch.sizes.size))
                batch = batch.lists(0, lists)
            parts.append(batch)
            lists -= batch.sizes.size
        return Batch.join(parts) if parts else None


def _origins(records: Sequence[Record]) -> NDArray[np.uint64]:
    """A number for each record's topic, partition and offset."""
    seeds = {
        key: xxhash.xxh3_64_intdigest(f"{key[0]}/{key[1]}".encode())
        for key in {(r.topic, r.partition) for r in records}
    }
    starts = np.array([seeds[r.topic, r.partition] for r in records], dtype=np.uint64)
    return starts + np.array([r.offset for r in records], dtype=np.uint64)
