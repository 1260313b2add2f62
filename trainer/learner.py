"""Score, then learn: one batch at a time.

Embedding rows take the gradient of the loss summed over the batch; the dense weights take its mean, by Adam. Where few
examples come, that of as many as a batch should have: batches are cut by time then, and were each to count the same,
eager positives, which come one by one, would outweigh the zeros that come as whole lists.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from embedding_store.kernel import kernel
from embedding_store.shard import Shard
from trainer import moments
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.embedder import Embedded
from trainer.errors import BadRecord
from trainer.models.model import Backward
from trainer.models.regularisation import batch_aware
from trainer.scorer import Scorer, sigmoid
from trainer.search.online import OnlineSearch

_BETA1, _REST1 = np.float32(0.9), np.float32(0.1)
_BETA2, _REST2 = np.float32(0.999), np.float32(0.001)
_EPSILON, _ZERO = np.float32(1e-8), np.float32(0.0)
_LARGEST = 1e12  # gradients: single precision squares and sums them without overflow
_FULL = 64  # examples: a smaller batch moves the dense weights by as much less
_BIAS_RATE = 20.0  # the biases' learning rate, as a multiple: they must reach the base rate within the first thousands


@kernel(error_model="numpy")
def adam(
    weights: NDArray[np.float32],
    gradients: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    rates: NDArray[np.float32],
    scale: np.float32,
    correct1: np.float32,
    correct2: np.float32,
) -> None:
    """One step of Adam, in place; all arrays float32[W]. In single precision throughout, so that it runs as vectors.

    Args:
        weights: The parameters.
        gradients: Of the summed loss; left at zero.
        first: Running mean of the gradients.
        second: Running mean of their squares.
        rates: Learning rate of each parameter.
        scale: Multiplies the gradients.
        correct1: 1 / (1 - beta1^step), of this step, counted from 1.
        correct2: 1 / (1 - beta2^step).

    **Source**: Kingma & Ba 2015, Adam (arXiv 1412.6980), algorithm 1.
    """
    for i in range(weights.size):
        g = gradients[i] * scale
        m = _BETA1 * first[i] + _REST1 * g
        v = _BETA2 * second[i] + _REST2 * g * g
        first[i] = m
        second[i] = v
        gradients[i] = _ZERO
        weights[i] -= rates[i] * m * correct1 / (np.sqrt(v * correct2) + _EPSILON)


def _is_sound(gradients: NDArray[np.float32]) -> bool:
    """False for NaN and infinity too."""
    return bool(np.abs(gradients).max(initial=0.0) <= _LARGEST)


class Learner:
    """The model that learns.

    Args:
        definition: What defines the prediction.
        shard: A shard that learns, with the definition's tables.

    Attributes:
        scorer: The prediction; what it scores is what was learned so far.
        search: Looks on; None for none.
    """

    def __init__(self, definition: Definition, shard: Shard) -> None:
        self.search: OnlineSearch | None = None
        self.scorer = Scorer(definition, shard)
        self.shard = shard
        size = self.scorer.weights.size
        self._first = np.zeros(size, dtype=np.float32)
        self._second = np.zeros(size, dtype=np.float32)
        self._rates = np.full(size, definition.model.learning_rate, dtype=np.float32)
        at = 0
        for name, shape in self.scorer.shapes:
            if name == "bias":
                self._rates[at : at + int(np.prod(shape))] *= _BIAS_RATE
            at += int(np.prod(shape))
        self._step = 0

    def score_and_learn(self, batch: Batch) -> NDArray[np.float64]:
        """Scores all of a batch, then learns from it.

        Where a task's negatives were sampled at a rate, the odds in the sample are 1 / rate times those in the stream.
        So the loss is that of logit - log(rate), of positives and negatives alike, and the logit itself, with which the
        ranker scores, stays that of the stream.

        Returns:
            float64[B, T], each task's probability before the batch was learned, with the odds of the sample: measured
            against the sample's labels they show whether the served ones are calibrated.

        Raises:
            BadRecord: With the reason ``not_finite``, if the loss or a gradient is not finite, or so large that the
                sum of squares of its optimizer would not be. Nothing was learned then.
        """
        scorer, shard = self.scorer, self.shard
        embedded = scorer.embedder.embed(batch)
        inputs, pooled = scorer.inputs(embedded, batch.times_ms, learning=True)
        logits, backward = scorer.module.run(inputs)
        probabilities = sigmoid(logits + batch.offsets)
        gradients = self._backward(batch, probabilities, backward, pooled)
        self._step_dense(len(batch))
        self._learn_rows(batch, embedded, gradients)
        moments.observe(embedded.remembered.numbers, scorer.moments)
        scorer.embedder.stream.update(batch, embedded.remembered)
        shard.pass_on(batch.times_ms)
        return probabilities

    def _backward(
        self, batch: Batch, probabilities: NDArray[np.float64], backward: Backward, pooled: Tensor
    ) -> NDArray[np.float32] | None:
        """Gradients of the summed cross entropy; of a logit it is weight * (p - label).

        Those of the dense weights are left in the scorer.

        Returns:
            float32[B, F + P, 1 + K]; None where the model's logit depends on no row by a gradient.
        """
        known = ~np.isnan(batch.labels)
        with np.errstate(invalid="ignore", over="ignore"):
            slopes = (probabilities - batch.labels) * batch.weights[:, None]
            errors = np.where(known, slopes, 0.0).astype(np.float32)
            backward(errors)
        gradients: NDArray[np.float32] | None = None if pooled.grad is None else pooled.grad.numpy()
        sound = _is_sound(self.scorer.gradients) and (gradients is None or _is_sound(gradients))
        if not (sound and np.isfinite(errors).all()):
            self.scorer.gradients[:] = 0.0
            raise BadRecord(
                "not_finite", "the loss or a gradient of the batch is not finite; look at `weight` and numbers"
            )
        self.scorer.module.observe()
        return gradients

    def _step_dense(self, examples: int) -> None:
        self._step += 1
        adam(
            self.scorer.weights,
            self.scorer.gradients,
            self._first,
            self._second,
            self._rates,
            np.float32(1.0 / max(examples, _FULL)),
            np.float32(1.0 / (1.0 - 0.9**self._step)),
            np.float32(1.0 / (1.0 - 0.999**self._step)),
        )

    def _learn_rows(self, batch: Batch, embedded: Embedded, gradients: NDArray[np.float32] | None) -> None:
        featurizer, bias = self.scorer.featurizer, self.scorer.embedder.bias
        fields, occurrences, rows = featurizer.of_store, embedded.occurrences, embedded.rows
        search = self.search
        if search is not None and gradients is not None:
            search.observe(occurrences, rows, fields, embedded.pooled, gradients)
        updated = self.shard.sight(occurrences, rows, fields, batch.times_ms, batch.origins)
        if search is not None and gradients is not None:
            search.count(updated)
        if bias is not None:
            self.shard.learn_gaussian(
                occurrences, rows, updated, fields, batch.labels, batch.weights, batch.offsets, bias,
                len(featurizer.fields),
            )  # fmt: skip
        if gradients is None:
            return
        strength = self.scorer.definition.model.embedding_l2
        if strength:
            counts = self.shard.rows.headers["count"][rows[occurrences.offsets[:-1]]].astype(np.int64)
            gradients[:, :, 1:] += batch_aware(embedded.pooled[:, :, 1:], counts.reshape(gradients.shape[:2]), strength)
        self.shard.step(occurrences, rows, updated, gradients, fields)

    def parts(self) -> dict[str, bytes]:
        """What a commit carries besides rows."""
        searched = {} if self.search is None else self.search.parts()
        return {
            **searched,
            "dense": self.scorer.dense_part(self._first, self._second),
            "numbers": self.scorer.numbers_part(),
            "step": self._step.to_bytes(8, "little"),
        }

    def load_parts(self, parts: dict[str, bytes]) -> list[str]:
        """Takes what :meth:`parts` gave.

        Returns:
            Names of the dense parts that start afresh.
        """
        fresh = self.scorer.load_dense(parts["dense"], self._first, self._second) if "dense" in parts else []
        if "numbers" in parts:
            self.scorer.load_numbers(parts["numbers"])
        self._step = int.from_bytes(parts.get("step", b""), "little")
        if self.search is not None:
            self.search.load(parts)
        return fresh
