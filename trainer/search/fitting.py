"""Training under fixed dimensions: what a plan or a rule is worth, counted and scored alike for all."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.encoding import INDEX_BYTES
from trainer.definition import Definition
from trainer.dimension_search import Blocks, Found, cut
from trainer.search.matrices import Matrices
from trainer.search.network import Network
from trainer.search.recipe import Recipe
from trainer.search.steps import Steps
from trainer.search.training import log_loss, train, validation_lines, weigh
from trainer.validation import auc


@dataclass(frozen=True, slots=True)
class Score:
    """How good logits were: area under the ROC curve, and mean log loss in nats."""

    auc: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model under fixed dimensions.

    Attributes:
        validation: On the half of the validation part that alpha never saw.
        test: On the test part.
        scores: float32[n], logits of the test part.
        labels: float32[n].
        parameters: Numbers of all rows, cold rows left out.
        bytes: What a reader holds in float32: numbers, index, masks, blocks, matrices.
        passes: Spent here, in examples by those of the training part.
        seconds: Spent here.
        network: The model.
    """

    validation: Score
    test: Score
    scores: NDArray[np.float32]
    labels: NDArray[np.float32]
    parameters: int
    bytes: int
    passes: float
    seconds: float
    network: Network


def fit(
    definition: Definition,
    data: Matrices,
    recipe: Recipe,
    kept: NDArray[np.bool_] | None = None,
    start: Found | None = None,
    alpha: Literal["none", "scalar", "vector"] = "none",
) -> Fitted:
    """Trains a model whose blocks keep some dimensions.

    Args:
        definition: The model.
        data: Its examples.
        recipe: From a search, `tune_passes` are made. From fresh values, as many passes of training as a search and its
            tuning make, so that both have seen as much.
        kept: bool[B, K], by the blocks that :func:`trainer.dimension_search.cut` gives; None: all.
        start: Goes on from here: alpha is folded in, what is not kept is dropped. None: from fresh values.
        alpha: Of a fresh model: what learns on validation batches beside it, as in a search without a penalty: nothing,
            one number a block, or all; nothing is pruned by it.
    """
    begun = time.perf_counter()
    blocks = cut(data, recipe) if start is None else start.blocks
    mask = np.ones((len(blocks.rows), data.dim), dtype=np.bool_) if kept is None else kept
    rng = np.random.default_rng(recipe.seed + 1)
    if start is None:
        network = Network(definition, data, blocks.of_rows, recipe.seed)
        network.fold(mask)
        steps = Steps(network, recipe.optimizer, recipe.rate, recipe.network_rate)
        if alpha == "none":
            passes = train(steps, data, recipe, recipe.warm_passes + recipe.search_passes + recipe.tune_passes, rng)
        else:
            passes = train(steps, data, recipe, recipe.warm_passes, rng)
            unpenalised = replace(recipe, penalty=0.0, l1=0.0)
            passes += weigh(steps, data, unpenalised, mask, rng, alpha == "scalar")[1]
            passes += train(steps, data, recipe, recipe.tune_passes, rng)
    else:
        steps = copy.deepcopy(start.steps)
        network = steps.network
        network.fold(mask)
        passes = train(steps, data, recipe, recipe.tune_passes, rng)
    return _fitted(data, blocks, mask, network, passes, begun)


def pruned(found: Found, kept: NDArray[np.bool_]) -> Fitted:
    """A search's model with what is not kept dropped, and nothing learned since."""
    begun = time.perf_counter()
    network = copy.deepcopy(found.network)
    network.fold(kept)
    return _fitted(found.data, found.blocks, kept, network, 0.0, begun)


def _fitted(
    data: Matrices, blocks: Blocks, kept: NDArray[np.bool_], network: Network, passes: float, begun: float
) -> Fitted:
    _, choosing = validation_lines(data)
    test = data.part("test")
    lines = np.arange(test.start, test.stop)
    scores, labels = network.scores(data, lines), data.labels[test]
    parameters, size = footprint(blocks, kept, len(network.matrices))
    return Fitted(
        _score(network.scores(data, choosing), data.labels[choosing]), _score(scores, labels), scores, labels,
        parameters, size, passes, time.perf_counter() - begun, network,
    )  # fmt: skip


def footprint(blocks: Blocks, kept: NDArray[np.bool_], matrices: int) -> tuple[int, int]:
    """Parameters and bytes of all tables, as docs/encodings.md counts them.

    Args:
        blocks: Of the tables.
        kept: bool[B, K].
        matrices: How many tables have one.
    """
    parameters = int(blocks.rows @ kept.sum(axis=1))
    dim = kept.shape[1]
    size = 4 * parameters + INDEX_BYTES * int(blocks.rows.sum()) + 4 * matrices * dim * dim
    for part in blocks.tables.values():
        count = len(np.unique(kept[part], axis=0))
        if count > 1:
            size += int(blocks.rows[part].sum()) + (part.stop - part.start) * (4 + (dim + 7) // 8)
    return parameters, size


def _score(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> Score:
    return Score(auc(labels.astype(np.float64), logits.astype(np.float64)), log_loss(logits, labels))


def curve(found: Found, shares: Sequence[float]) -> list[tuple[float, NDArray[np.bool_], Fitted]]:
    """The pruning curve: what is left at some shares of the parameters, before any tuning.

    Returns:
        Of each share: itself, what is kept (bool[B, K]) and the model.
    """
    points = []
    for share in shares:
        kept = found.kept(share)
        points.append((share, kept, pruned(found, kept)))
    return points
