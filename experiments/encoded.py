"""A search's model over encodings: the same network and schedule, its rows held another way."""

import time
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from embedding_store.encodings.counts import fixed_counts
from embedding_store.encodings.encoding import Encoding, footprint
from embedding_store.encodings.int8 import Int8
from embedding_store.encodings.nested import Nested
from embedding_store.encodings.selection import make_all
from embedding_store.encodings.settings import EncodingSettings
from trainer.definition import Definition
from trainer.dimension_search import Recipe
from trainer.search.matrices import Matrices
from trainer.search.network import Examples, Network, take
from trainer.search.steps import Steps
from trainer.search.training import train

Way = int | Literal["int8"] | None
"""How trained encodings are served: a nested table by a prefix, any in int8, or as they are."""
_FIRST_ACCUMULATOR = 1e-12  # gradients are those of a mean over hundreds of examples


class Encodings:
    """The encodings of all tables of a data set; an id is a row's number in its table.

    Args:
        definition: Names and initial values of the tables.
        data: Which rows are a table's, and how often ids are seen.
        settings: By table.
        recipe: Optimizer, rate and seed.
    """

    def __init__(
        self, definition: Definition, data: Matrices, settings: Mapping[str, EncodingSettings], recipe: Recipe
    ) -> None:
        self._tables = data.tables
        learning = {
            "dim": data.dim, "optimizer": recipe.optimizer, "learning_rate": recipe.rate,
            "initial_accumulator": _FIRST_ACCUMULATOR,
        }  # fmt: skip
        tables = [
            table.model_copy(update={**learning, "encoding": settings[table.name]})
            for table in definition.tables
            if table.name in settings
        ]
        counts = {
            table.name: fixed_counts(np.arange(table.last - table.first), data.counts[table.first : table.last])
            for table in data.tables
        }
        self._of = make_all(tables, recipe.seed, counts)

    def _parts(self, distinct: NDArray[np.int64]) -> list[tuple[Encoding, slice, NDArray[np.int64]]]:
        """Encoding, place and ids of each table's rows among int64[u] rising rows."""
        ends = np.searchsorted(distinct, [table.last for table in self._tables]).tolist()
        starts = [0, *ends[:-1]]
        return [
            (self._of[table.name], slice(a, b), distinct[a:b] - table.first)
            for table, a, b in zip(self._tables, starts, ends, strict=True)
        ]

    def vectors(self, distinct: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the next batch learns from: int64[u] rising rows -> float32[u, K]."""
        return np.concatenate([encoding.vectors(ids) for encoding, _, ids in self._parts(distinct)])

    def learn(self, distinct: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """One step, from float32[u, K]."""
        for encoding, place, ids in self._parts(distinct):
            encoding.learn(ids, gradients[place])

    def served(self, way: Way) -> NDArray[np.float32]:
        """Every row's vector as it is served: float32[R, K]."""
        rows = np.arange(self._tables[-1].last)
        return np.concatenate([_served(encoding, way).vectors(ids) for encoding, _, ids in self._parts(rows)])

    def footprint(self, way: Way) -> tuple[int, int]:
        """Parameters and bytes as they are served."""
        return footprint(_served(encoding, way) for encoding in self._of.values())


def _served(encoding: Encoding, way: Way) -> Encoding:
    if way == "int8":
        return Int8(encoding)
    return encoding if way is None or not isinstance(encoding, Nested) else encoding.served(way)


class State(NamedTuple):
    """What a model over encodings serves: by way, every row's vector; and the dense weights."""

    vectors: dict[Way, Tensor]
    dense: dict[str, Tensor]


class EncodedNetwork(Network):
    """The network, its vectors from encodings.

    Args:
        definition: See :class:`Network`.
        data: See there.
        encodings: Of the data's tables.
        seed: See there.
        ways: How they are served.

    Attributes:
        way: That of :meth:`scores`; at first the last.
    """

    def __init__(
        self, definition: Definition, data: Matrices, encodings: Encodings, seed: int, ways: tuple[Way, ...]
    ) -> None:
        super().__init__(definition, data, np.zeros(data.rows, dtype=np.int64), seed)
        self.encodings = encodings
        self._ways = ways
        self.way = ways[-1]
        self._best: dict[Way, Tensor] = {}

    def scores(self, data: Matrices, lines: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`Network.scores`."""
        whole = self._best.get(self.way)
        if whole is None:
            whole = torch.from_numpy(self.encodings.served(self.way))
        found = [np.empty(0, dtype=np.float32)]
        with torch.no_grad():
            for first in range(0, lines.size, 8192):
                examples = take(data, lines[first : first + 8192])
                found.append(self.logits(examples, whole[examples.distinct][examples.places], None).numpy())
        return np.concatenate(found)

    def copy_state(self) -> State:  # type: ignore[override]  # encodings cannot be set back, what they serve can
        """What is served now."""
        vectors = {way: torch.from_numpy(self.encodings.served(way)) for way in self._ways}
        return State(vectors, {k: v.clone() for k, v in self.module.state_dict().items()})

    def load_state(self, state: State) -> None:  # type: ignore[override]
        """Serves what :meth:`copy_state` gave from now on; nothing is learned after it."""
        self._best = state.vectors
        self.module.load_state_dict(state.dense)


class EncodedSteps(Steps):
    """Steps of encodings and dense weights."""

    def __init__(self, network: EncodedNetwork, recipe: Recipe) -> None:
        super().__init__(network, recipe.optimizer, recipe.rate, recipe.network_rate)
        self._encodings = network.encodings

    def learn(self, examples: Examples, frozen: bool = False) -> None:
        """See :meth:`Steps.learn`."""
        distinct = examples.distinct.numpy()
        vectors = torch.from_numpy(self._encodings.vectors(distinct)).requires_grad_()
        logits = self.network.logits(examples, vectors[examples.places], None)
        self._dense.zero_grad()
        torch.autograd.backward([binary_cross_entropy_with_logits(logits, examples.labels)])
        if not frozen:
            self._dense.step()
        if vectors.grad is not None:
            self._encodings.learn(distinct, vectors.grad.numpy())


class Outcome(NamedTuple):
    """A trained model.

    Attributes:
        scores: float32[n], logits of the test part.
        parameters: Of all tables.
        bytes: As docs/encodings.md counts them.
        passes: Of training, a search's included.
        seconds: Of training.
        search_s: Of the search before it.
    """

    scores: NDArray[np.float32]
    parameters: int
    bytes: int
    passes: float
    seconds: float
    search_s: float = 0.0


def fit(
    definition: Definition,
    data: Matrices,
    recipe: Recipe,
    settings: Mapping[str, EncodingSettings],
    ways: tuple[Way, ...] = (None,),
) -> list[Outcome]:
    """Trains a model over encodings for as long as :func:`trainer.search.fitting.fit` does, from fresh values.

    Args:
        definition: The model.
        data: Its examples.
        recipe: The schedule.
        settings: By table.
        ways: How it is served, each a result of its own; the last says which moment of the training was best.
    """
    start = time.perf_counter()
    encodings = Encodings(definition, data, settings, recipe)
    network = EncodedNetwork(definition, data, encodings, recipe.seed, ways)
    rng = np.random.default_rng(recipe.seed + 1)
    total = recipe.warm_passes + recipe.search_passes + recipe.tune_passes
    passes = train(EncodedSteps(network, recipe), data, recipe, total, rng)
    seconds = time.perf_counter() - start
    test = data.part("test")
    lines = np.arange(test.start, test.stop)
    found = []
    for way in ways:
        network.way = way
        found.append(Outcome(network.scores(data, lines), *encodings.footprint(way), passes, seconds))
    return found
