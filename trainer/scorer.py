"""A definition brought to life over a shard: the prediction, the same in the trainer and in the ranker.

Holds the dense weights as one flat vector, of which the module's parameters are views, and the running mean and
variance of every number.
"""

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from embedding_store.errors import BadBytes
from embedding_store.shard import Shard
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.features import Featurizer
from trainer.models import build_model

_CLIP = 8.0
_EVEN = 8  # matrix products round the last rows otherwise where they are no multiple of this: equal rows, equal scores


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
    """

    def __init__(self, definition: Definition, shard: Shard) -> None:
        self.definition = definition
        self.shard = shard
        self.featurizer = Featurizer(definition)
        self.tasks = tuple(task.name for task in definition.tasks)
        self.moments = np.zeros((len(self.featurizer.numbers), 3), dtype=np.float64)
        self.module = build_model(definition, len(self.featurizer.fields), len(self.featurizer.numbers))
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
        if not self.featurizer.numbers:
            return np.empty(numbers.shape, dtype=np.float32)
        count, mean, squares = self.moments.T
        deviation = np.sqrt(squares / np.maximum(count, 1.0))
        scaled = (numbers - mean) / np.where(deviation > 0, deviation, 1.0)
        scaled[:, count < 2] = 0.0
        return np.nan_to_num(np.clip(scaled, -_CLIP, _CLIP), nan=0.0).astype(np.float32)

    def embed(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows that score each occurrence, int64[N], and the pooled fields, float32[B, F, 1 + K]."""
        rows = self.shard.lookup(batch.occurrences, self.featurizer.of_store)
        return rows, self.shard.gather(rows, batch.occurrences, self.featurizer.of_store)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Logits of a batch, float32[B, T]. Changes nothing."""
        _, fields = self.embed(batch)
        numbers = self.standardise(batch.numbers)
        if spare := -len(batch) % _EVEN:
            fields = np.concatenate([fields, np.zeros((spare, *fields.shape[1:]), dtype=np.float32)])
            numbers = np.concatenate([numbers, np.zeros((spare, numbers.shape[1]), dtype=np.float32)])
        with torch.inference_mode():
            out: NDArray[np.float32] = self.module(torch.from_numpy(fields), torch.from_numpy(numbers)).numpy()
        return out[: len(batch)]

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
        """The running moments by feature."""
        return orjson.dumps(
            {f.name: m for f, m in zip(self.featurizer.numbers, self.moments.tolist(), strict=True)},
            option=orjson.OPT_SORT_KEYS,
        )

    def load_numbers(self, data: bytes) -> None:
        """Takes the moments of :meth:`numbers_part`; a feature that is not among them keeps its own."""
        stored = orjson.loads(data)
        for m, feature in enumerate(self.featurizer.numbers):
            if feature.name in stored:
                self.moments[m] = stored[feature.name]


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / (1 + e^-x) in double precision, without overflow."""
    x = np.clip(logits.astype(np.float64), -700.0, 700.0)
    return 1.0 / (1.0 + np.exp(-x))
