"""Synthetic impressions with a known click model, of any size, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.datasets.block import Block, coded
from services.datasets.click_model import COUNTRIES, DEVICES, ClickModel, make_click_model
from services.datasets.dataset import Dataset, Licence
from services.datasets.errors import DatasetError
from trainer.example import Coded

START_MS = 1_767_225_600_000
LIST_INTERVAL_MS = 3_000
DEFAULT_EXAMPLES = 2_000_000
_BLOCK_LISTS = 2048
_BASE_RATE = 0.1
_DEVICE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class SyntheticStream:
    """A stream that equal arguments make equal; a shorter one is the beginning of a longer one.

    Lists come every three seconds of event time on average, from 2026-01-01. Users come and items are shown by zipf's
    law. Half of the items are there from the start, the others appear one by one within a week.

    Attributes:
        seed: Of everything.
        examples: How many; the last list is shorter where they do not divide evenly.
        list_size: Items of a list, all different.
        model: Features and tastes.
    """

    seed: int
    examples: int
    list_size: int
    model: ClickModel

    def blocks(self) -> Iterator[Block]:
        """The stream from its beginning."""
        left = self.examples
        number = 0
        while left > 0:
            block = self._block(number)
            if left < len(block.sizes) * self.list_size:
                block = self._shortened(block, left)
            yield block
            left -= int(block.sizes.sum())
            number += 1

    def _block(self, number: int) -> Block:
        rng = np.random.default_rng((self.seed, 1, number))
        after_ms, user, device, item = draw_lists(rng, self.model, number, self.list_size)
        truth = 1 / (1 + np.exp(-self.model.log_odds(user, device, item, after_ms)))
        click = rng.random(truth.shape) < truth
        items = item.ravel()
        return Block(
            sizes=np.full(len(user), self.list_size, dtype=np.int64),
            ts=START_MS + after_ms,
            values={
                "user.id": user,
                "user.country": Coded(self.model.country[user], _COUNTRIES),
                "context.device": Coded(device, _DEVICES),
                "item.id": items,
                "item.category": self.model.category[items],
                "item.price": self.model.price[items],
            },
            labels={"click": click.ravel().astype(np.int8)},
            outcomes={},
            truth=truth.ravel(),
        )

    def _shortened(self, block: Block, examples: int) -> Block:
        lists = -(-examples // self.list_size)
        whole = block.lists(0, lists)
        sizes = whole.sizes.copy()
        sizes[-1] -= lists * self.list_size - examples
        return replace(whole, sizes=sizes).lists(0, lists)


_COUNTRIES, _DEVICES = coded(COUNTRIES), coded(DEVICES)


def draw_lists(
    rng: np.random.Generator, model: ClickModel, number: int, list_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Who comes when, on which device, and what they are shown, in one block of the stream.

    Args:
        rng: Of this block.
        model: Features and weights.
        number: The block's, from 0.
        list_size: S, items of a list.

    Returns:
        ms after the start, user and device, int64[L] each, and items, int64[L, S], different within a list.
    """
    span = _BLOCK_LISTS * LIST_INTERVAL_MS
    after_ms = np.sort(rng.integers(0, span, _BLOCK_LISTS)) + number * span
    user = np.searchsorted(model.user_weights, rng.random(_BLOCK_LISTS) * model.user_weights[-1], side="right")
    device = np.where(
        rng.random(_BLOCK_LISTS) < _DEVICE_SHARE, model.device[user], rng.integers(0, len(DEVICES), _BLOCK_LISTS)
    )
    born = np.searchsorted(model.born_ms, after_ms, side="right")
    reach = np.broadcast_to(model.item_weights[born - 1, None], (_BLOCK_LISTS, list_size))
    item = np.searchsorted(model.item_weights, rng.random(reach.shape) * reach, side="right")
    rows = np.arange(_BLOCK_LISTS)
    while len(rows):
        again = _repeated(item[rows])
        clashing = again.any(axis=1)
        rows, again = rows[clashing], again[clashing]
        drawn = item[rows]
        drawn[again] = np.searchsorted(
            model.item_weights, rng.random(int(again.sum())) * reach[rows][again], side="right"
        )
        item[rows] = drawn
    return after_ms, user, device, item


def _repeated(item: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool[L, S]: whether the item stands further left in its list."""
    order = np.argsort(item, axis=1, kind="stable")
    ordered = np.take_along_axis(item, order, axis=1)
    same = np.zeros(item.shape, dtype=np.bool_)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(same)
    np.put_along_axis(repeated, order, same, axis=1)
    return repeated


def open_synthetic(
    examples: int | None = None,
    seed: int = 1,
    users: int = 100_000,
    items: int = 20_000,
    list_size: int = 10,
) -> Dataset:
    """A synthetic data set.

    Args:
        examples: How many; default two million.
        seed: Equal arguments give equal data.
        users: How many users there are.
        items: How many items there are in the end.
        list_size: Items of a list.

    Raises:
        DatasetError: If there are too few users or items.
    """
    if users < 1 or list_size < 1 or items < 8 * list_size:
        raise DatasetError(
            f"synthetic: needs at least one user and {8 * max(list_size, 1)} items, got {users} and {items}"
        )
    model = make_click_model(seed, users, items)
    model = replace(model, intercept=_intercept(model, seed, list_size))
    count = DEFAULT_EXAMPLES if examples is None else examples
    stream = SyntheticStream(seed, count, list_size, model)
    return Dataset(
        name="synthetic",
        title="synthetic impressions with a known click model",
        licence=Licence("none needed", "generated"),
        origin=f"generated, seed {seed}",
        examples=count,
        tasks=("click",),
        has_truth=True,
        blocks=stream.blocks,
    )


def _intercept(model: ClickModel, seed: int, list_size: int) -> float:
    """The log odds that bring the mean probability to the base rate, by bisection over a sample of the first week."""
    sample = []
    for number in range(0, 100, 10):
        rng = np.random.default_rng((seed, 2, number))
        after_ms, user, device, item = draw_lists(rng, model, number, list_size)
        sample.append(model.log_odds(user, device, item, after_ms).ravel())
    odds = np.concatenate(sample)
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-odds - middle))).mean() < _BASE_RATE:
            low = middle
        else:
            high = middle
    return middle
