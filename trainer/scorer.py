"""A definition brought to life over a shard: the prediction, the same in the trainer and in the ranker.

Holds the dense weights as one flat vector, of which the module's parameters are views, and the running mean and
variance of every number.
"""

from typing import Any, NamedTuple

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding_store.errors import BadBytes
from embedding_store.shard import Shard
from trainer import moments
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.embedder import Embedded, Embedder
from trainer.features import Featurizer
from trainer.formula import Formula
from trainer.models import build_model
from trainer.models.inputs import Inputs, Shape

_EVEN = 8  # matrix products round the last rows otherwise where they are no multiple of this: equal rows, equal scores


class Scores(NamedTuple):
    """What B examples score.

    Attributes:
        logits: float32[B, T].
        variances: float64[B, T], of the log odds, with Gaussian weights.
    """

    logits: NDArray[np.float32]
    variances: NDArray[np.float64] | None

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """float64[B, T]."""
        return sigmoid(self.logits)

    @property
    def deviations(self) -> NDArray[np.float64] | None:
        """Standard deviation of each probability, to first order: float64[B, T]."""
        if self.variances is None:
            return None
        p = self.probabilities
        return np.asarray(p * (1.0 - p) * np.sqrt(self.variances))


class Scorer:
    """Scores batches.

    Args:
        definition: What defines the prediction.
        shard: The rows. Its tables are the definition's, perhaps with others behind them.

    Attributes:
        moments: float64[M, 3], count, mean and sum of squared deviations of each number.
        weights: float32[W], the dense weights.
        gradients: float32[W], where a backward pass leaves their gradients.
        shapes: Name and shape of each part of the weights, in their order.
        ranking: Makes one score of the tasks' probabilities.
    """

    def __init__(self, definition: Definition, shard: Shard) -> None:
        self.definition = definition
        self.shard = shard
        self.featurizer = Featurizer(definition)
        self.embedder = Embedder(definition, shard, self.featurizer)
        self.tasks = tuple(task.name for task in definition.tasks)
        self.ranking = Formula(definition.model.score or self.tasks[0], self.tasks)
        self.moments = np.zeros((len(self.featurizer.numbers), 3), dtype=np.float64)
        past = definition.sequence
        attended = past is not None and definition.model.name == "din"
        shape = Shape(
            fields=len(self.featurizer.fields) + (past is not None and not attended),
            dim=shard.dim,
            numbers=len(self.featurizer.numbers),
            tasks=len(self.tasks),
            hidden=definition.model.hidden,
            sequence_length=past.items if past is not None and attended else 0,
            target=definition.target if attended else None,
            gaussian=definition.gaussian,
        )
        self.module = build_model(definition, shape)
        named = list(self.module.named_parameters())
        self.shapes = tuple((name, tuple(p.shape)) for name, p in named)
        size = sum(p.numel() for _, p in named)
        self.weights = np.empty(size, dtype=np.float32)
        self.gradients = np.zeros(size, dtype=np.float32)
        at = 0
        for _, parameter in named:
            part = slice(at, at + parameter.numel())
            at += parameter.numel()
            self.weights[part] = parameter.detach().numpy().ravel()
            parameter.data = torch.from_numpy(self.weights[part]).view(parameter.shape)
            parameter.grad = torch.from_numpy(self.gradients[part]).view(parameter.shape)

    def standardise(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Numbers less their mean, by their standard deviation: float64[B, M] -> float32[B, M]; 0 where missing."""
        out = np.empty(numbers.shape, dtype=np.float32)
        moments.standardise(numbers, self.moments, out)
        return out

    def inputs(self, embedded: Embedded, times_ms: NDArray[np.int64], learning: bool = False) -> tuple[Inputs, Tensor]:
        """What the module takes, and the leaf that gradients reach: [B, F + P, 1 + K]."""
        pooled = torch.from_numpy(embedded.pooled).requires_grad_(learning)
        numbers = torch.from_numpy(self.standardise(embedded.remembered.numbers))
        return self.embedder.inputs(embedded, pooled, numbers, times_ms), pooled

    def score(self, batch: Batch) -> Scores:
        """Scores a batch. Changes nothing."""
        embedded = self.embedder.embed(batch)
        with torch.inference_mode():
            inputs, _ = self.inputs(embedded, batch.times_ms)
            if spare := -len(batch) % _EVEN:
                inputs = _padded(inputs, spare)
            logits: NDArray[np.float32] = self.module(inputs).numpy()[: len(batch)]
        return Scores(logits, None if embedded.moments is None else embedded.moments[:, :, 1])

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Logits of a batch, float32[B, T]. Changes nothing."""
        return self.score(batch).logits

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Probability of each task, float64[B, T]."""
        return sigmoid(self.logits(batch))

    # What a commit carries of it

    def dense_part(self, *state: NDArray[np.float32]) -> bytes:
        """The dense weights and any optimizer state of the same length, with names and shapes."""
        head = orjson.dumps({"shapes": self.shapes, "vectors": 1 + len(state)})
        return len(head).to_bytes(4, "little") + head + b"".join(v.tobytes() for v in (self.weights, *state))

    def load_dense(self, data: bytes, *state: NDArray[np.float32]) -> list[str]:
        """Takes the weights (and state) of :meth:`dense_part`, part by part.

        Returns:
            Names of the parts that start afresh, since none of their name and shape was there.

        Raises:
            BadBytes: If the bytes are damaged.
        """
        size = int.from_bytes(data[:4], "little")
        head = orjson.loads(data[4 : 4 + size])
        total = sum(int(np.prod(shape)) for _, shape in head["shapes"])
        vectors = np.frombuffer(data, dtype="<f4", offset=4 + size)
        if vectors.size != total * head["vectors"]:
            raise BadBytes("the dense weights' length does not fit their shapes")
        vectors = vectors.reshape(head["vectors"], total)
        stored, at = {}, 0
        for name, shape in head["shapes"]:
            stored[name, tuple(shape)] = slice(at, at + int(np.prod(shape)))
            at += int(np.prod(shape))
        fresh, at = [], 0
        for name, shape in self.shapes:
            part = slice(at, at + int(np.prod(shape)))
            at = part.stop
            source = stored.get((name, shape))
            if source is None:
                fresh.append(name)
                continue
            for vector, row in zip((self.weights, *state), vectors, strict=False):
                vector[part] = row[source]
        return fresh

    def numbers_part(self) -> bytes:
        """The running moments by number, and Gaussian weights' biases by task."""
        value: dict[str, Any] = {"numbers": dict(zip(self.featurizer.numbers, self.moments.tolist(), strict=True))}
        if self.embedder.bias is not None:
            value["bias"] = dict(zip(self.tasks, self.embedder.bias.tolist(), strict=True))
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

    def load_numbers(self, data: bytes) -> None:
        """Takes what :meth:`numbers_part` gave; a number or task that is not there keeps its own."""
        stored = orjson.loads(data)
        for m, name in enumerate(self.featurizer.numbers):
            if name in stored["numbers"]:
                self.moments[m] = stored["numbers"][name]
        if self.embedder.bias is not None:
            for t, name in enumerate(self.tasks):
                self.embedder.bias[t] = stored.get("bias", {}).get(name, self.embedder.bias[t])


def _padded(inputs: Inputs, spare: int) -> Inputs:
    """So many rows of zeros more."""
    some = {k: torch.cat((x, x.new_zeros((spare, *x.shape[1:])))) for k, x in inputs._asdict().items() if x is not None}
    return Inputs(**some)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / (1 + e^-x) in double precision, without overflow."""
    x = np.minimum(np.maximum(logits.astype(np.float64), -700.0), 700.0)
    return 1.0 / (1.0 + np.exp(-x))
