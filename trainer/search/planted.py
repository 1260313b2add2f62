"""Data whose truth is known: clicks by dot products in which each block of items uses its own number of dimensions.

The dimensions are nested: items of a block that uses d of them use the first d of the truth's axes. Users use all.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedding_store.settings import TableSettings
from trainer.definition import Definition, define
from trainer.search.matrices import Matrices, TableRows
from trainer.settings import FeatureSettings, ModelSettings, TaskSettings

ITEM, USER = "item", "user"
_SHARES = 0.7, 0.2, 0.1


@dataclass(frozen=True, slots=True)
class Truth:
    """What clicks are drawn from.

    Attributes:
        users: float64[U, D], D the most dimensions that a block uses.
        tastes: float64[I, D], of items at full length.
        blocks: int64[I], the block of each item, 0 the rarest.
        chances: float64[I], how likely an item is shown.
        dims: Dimensions of each block.
        scale: Standard deviation of an item's log odds over users.
        sightings: Of an item of each block in the training part of a whole data set, on average.
    """

    users: NDArray[np.float64]
    tastes: NDArray[np.float64]
    blocks: NDArray[np.int64]
    chances: NDArray[np.float64]
    dims: tuple[int, ...]
    scale: float
    sightings: tuple[int, ...]

    @property
    def items(self) -> NDArray[np.float64]:
        """float64[I, D], zeros behind what an item's block uses."""
        dims = np.array(self.dims)[self.blocks][:, None]
        used = np.where(np.arange(self.tastes.shape[1]) < dims, self.tastes, 0.0)
        return np.asarray(used * self.scale / np.sqrt(dims))

    def changed(self, dims: tuple[int, ...]) -> "Truth":
        """The same axes and tastes, of which each block uses other numbers."""
        return replace(self, dims=dims)

    @property
    def bounds(self) -> tuple[int, ...]:
        """Counts that tell the blocks of a whole data set apart."""
        return tuple(round((a * b) ** 0.5) for a, b in itertools.pairwise(self.sightings))

    @property
    def examples(self) -> int:
        """Of a whole data set."""
        return round(sum(self.sightings) * len(self.items) / len(self.dims) / _SHARES[0])

    def draw(
        self, rng: np.random.Generator, examples: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Users, items and clicks: int64[n], int64[n], float32[n] of 0 and 1."""
        user = rng.integers(0, len(self.users), examples)
        item = rng.choice(len(self.items), examples, p=self.chances)
        odds = (self.users[user] * self.items[item]).sum(1)
        return user, item, (rng.random(examples) < 1 / (1 + np.exp(-odds))).astype(np.float32)


def make_truth(
    seed: int,
    dims: tuple[int, ...] = (1, 2, 3, 4, 6, 8),
    sightings: tuple[int, ...] = (20, 40, 80, 160, 320, 640),
    ids: int = 200,
    users: int = 300,
    scale: float = 3.0,
) -> Truth:
    """A truth.

    Args:
        seed: Of it.
        dims: Dimensions of each block, the rarest first.
        sightings: How often an item of each block is shown in the training part of a whole data set, on average.
        ids: Items of a block.
        users: How many.
        scale: Standard deviation of an item's log odds over users; alike for all blocks.

    Raises:
        ValueError: If dims and sightings differ in length, or sightings do not rise.
    """
    if len(dims) != len(sightings) or list(sightings) != sorted(set(sightings)):
        raise ValueError("sightings: must rise, one a block")
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(len(dims)), ids)
    tastes = rng.standard_normal((blocks.size, max(dims)))
    weights = np.array(sightings, dtype=np.float64)[blocks]
    of_users = rng.standard_normal((users, max(dims)))
    return Truth(of_users, tastes, blocks, weights / weights.sum(), dims, scale, sightings)


def definition(dim: int = 16, seed: int = 1) -> Definition:
    """A model of the truth's own form: the dot product of a user's and an item's vector, and a bias."""
    tables = tuple(
        TableSettings(name=name, dim=dim, linear_learning_rate=0.0, init_std=0.1, learning_rate=0.02)
        for name in (ITEM, USER)
    )
    features = (
        FeatureSettings(name=USER, source="user.id", kind="id"),
        FeatureSettings(name=ITEM, source="item.id", kind="id"),
    )
    return define(tables, features, (TaskSettings(name="click"),), ModelSettings(name="fm"), seed)


def planted(truth: Truth, seed: int, examples: int | None = None, dim: int = 16) -> Matrices:
    """A whole data set of a truth: 70 % for training, 20 % for validation, 10 % for test.

    Args:
        truth: What is drawn from.
        seed: Of the draw.
        examples: How many; default: as many as give every block its sightings.
        dim: K.
    """
    rng = np.random.default_rng(seed)
    examples = examples or truth.examples
    user, item, labels = truth.draw(rng, examples)
    count = len(truth.items)
    first = 1 + count  # rows: the items' cold row, items, the users' cold row, users
    ids = np.stack([first + 1 + user, 1 + item], axis=1).astype(np.int32)
    rows = first + 1 + len(truth.users)
    begins = round(_SHARES[0] * examples), round((1 - _SHARES[2]) * examples)
    counts = np.bincount(ids[: begins[0]].ravel(), minlength=rows)
    tables = TableRows(ITEM, 0, first, False), TableRows(USER, first, rows, False)
    return Matrices(
        dim, 2, np.arange(2), ids, np.ones(ids.shape, dtype=np.float32), np.zeros((examples, 0), dtype=np.float32),
        labels, tables, counts.astype(np.int64), begins,
    )  # fmt: skip
