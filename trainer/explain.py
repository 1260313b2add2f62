"""Why a candidate has its logit: what each feature adds to it.

The additive part of a model is told exactly: a field's linear weight, a number's share of the linear function. What
the rest makes of the fields together is told by integrated gradients, from a baseline at which every vector is its
table's cold row and every number its mean. So there a contribution answers: what did this value change, compared
with one that nobody has seen? The bias is the model's own and what the rest says of the baseline.

**Source**: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks (arXiv 1703.01365): integrated gradients
are its equation 1, that they add up its proposition 1 (completeness), how to compute them its section 5.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embedding_store.gaussian import MODERATION
from trainer.batch import Batch
from trainer.embedder import Embedded
from trainer.models.inputs import Inputs
from trainer.models.model import Model
from trainer.scorer import Scorer

_STEPS, _MOST_STEPS = 32, 1024
_CLOSE = 1e-4  # a sum that misses by less needs no more steps

Leaves = dict[str, Tensor]
"""The independent parts of some inputs: all float64[B, ...]."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Parts of one logit: bias + the sum of the fields.

    Attributes:
        bias: What no feature accounts for.
        fields: Contribution of each feature.
        logit: Of the task.
        missed: By how much the integrated gradients' sum missed before that was spread over them.
    """

    bias: float
    fields: dict[str, float]
    logit: float
    missed: float


@dataclass(frozen=True, slots=True)
class Names:
    """What the parts of the inputs are called.

    Attributes:
        fields: F names.
        numbers: M names.
        sequence: Of the sequence, where there is one.
    """

    fields: Sequence[str]
    numbers: Sequence[str]
    sequence: str = "sequence"


@dataclass(frozen=True, slots=True)
class Question:
    """One candidate, and all that it takes to explain its logit. Shares no memory with what learns.

    Attributes:
        model: In double precision.
        inputs: Of the candidate, B = 1.
        baseline: Of a candidate of whom nothing is known, B = 1, with the same parts; mask and ages are not its own.
        names: Of the features.
        task: Which logit.
        means: [1, F, T], what each field's Gaussian mean counts in the wide logit; where there is one.
        baseline_means: The same of the baseline.
    """

    model: Model
    inputs: Inputs
    baseline: Inputs
    names: Names
    task: int
    means: Tensor | None = None
    baseline_means: Tensor | None = None

    def answer(self) -> Explanation:
        """The contributions. Takes milliseconds and changes nothing."""
        given = _leaves(self.inputs, self.means)
        nothing = {name: torch.zeros_like(leaf) for name, leaf in given.items()}
        additive = self._output(self.model.additive, given)
        exact, _ = self._by_feature(self._attributions(self.model.additive, nothing, given, 1))
        baseline = _leaves(self.baseline, self.baseline_means)
        deep = self._output(self.model.deep, given)
        change = deep - self._output(self.model.deep, baseline)
        steps = _STEPS
        while True:
            shares, other = self._by_feature(self._attributions(self.model.deep, baseline, given, steps))
            missed = change - other - sum(shares.values())
            if abs(missed) <= _CLOSE or steps >= _MOST_STEPS:
                break
            steps *= 2
        size = sum(map(abs, shares.values()))
        spread = missed / size if size else 0.0
        fields = {name: share + exact[name] + spread * abs(share) for name, share in shares.items()}
        logit = additive + deep
        return Explanation(logit - sum(fields.values()), fields, logit, missed)

    def _inputs(self, leaves: Leaves) -> Inputs:
        size = leaves["linear"].shape[0]
        mask, ages = self.inputs.mask, self.inputs.ages
        return Inputs(
            leaves["linear"],
            leaves["vectors"],
            leaves["numbers"],
            leaves["means"].sum(1) + leaves["unexplained"] if "means" in leaves else None,
            leaves.get("confidence"),
            leaves.get("sequence"),
            None if mask is None else mask.expand(size, -1),
            None if ages is None else ages.double().expand(size, -1),
        )

    def _output(self, part: Callable[[Inputs], Tensor], leaves: Leaves) -> float:
        with torch.no_grad():
            return float(part(self._inputs(leaves))[0, self.task])

    def _attributions(self, part: Callable[[Inputs], Tensor], start: Leaves, end: Leaves, steps: int) -> Leaves:
        """Integrated gradients of each leaf, by the middles of so many equal parts of the straight path."""
        places = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
        path = {}
        for name, leaf in end.items():
            at = places.view(-1, *[1] * (leaf.dim() - 1))
            path[name] = (start[name] + at * (leaf - start[name])).requires_grad_()
        output = part(self._inputs(path))[:, self.task].sum()
        if not output.requires_grad:
            return {name: torch.zeros_like(leaf) for name, leaf in end.items()}
        slopes = torch.autograd.grad(output, list(path.values()), allow_unused=True, materialize_grads=True)
        return {
            name: slope.mean(0, keepdim=True) * (end[name] - start[name])
            for name, slope in zip(path, slopes, strict=True)
        }

    def _by_feature(self, found: Leaves) -> tuple[dict[str, float], float]:
        """Attributions of each feature, and of what is no feature's."""
        total = (found["linear"] + found["vectors"].sum(2))[0]
        if "means" in found:
            total = total + found["means"][0].sum(1)
        if "confidence" in found:
            total = total + found["confidence"][0]
        shares = dict(zip(self.names.fields, total.tolist(), strict=True))
        shares.update(zip(self.names.numbers, found["numbers"][0].tolist(), strict=True))
        if "sequence" in found:
            shares[self.names.sequence] = float(found["sequence"].sum())
        return shares, float(found["unexplained"].sum()) if "unexplained" in found else 0.0


def _leaves(inputs: Inputs, means: Tensor | None) -> Leaves:
    """The independent parts; a wide logit falls apart into what each mean counts in it, and what is left."""
    leaves = {
        "linear": inputs.linear.double(),
        "vectors": inputs.vectors.double(),
        "numbers": inputs.numbers.double(),
    }
    if inputs.wide is not None:
        nothing = torch.zeros(*inputs.linear.shape, inputs.wide.shape[1], dtype=torch.float64)
        leaves["means"] = nothing if means is None else means.double()
        leaves["unexplained"] = inputs.wide.double() - leaves["means"].sum(1)
    if inputs.confidence is not None:
        leaves["confidence"] = inputs.confidence.double()
    if inputs.sequence is not None:
        leaves["sequence"] = inputs.sequence.double()
    return leaves


def precise(model: Model) -> Model:
    """A copy in double precision that observes nothing."""
    found = copy.deepcopy(model).double().eval()
    return found.requires_grad_(False)


def ask(scorer: Scorer, batch: Batch, task: int) -> Question:
    """The question of one candidate. Reads the rows; to be called with the scorer held still.

    Args:
        scorer: Of the present weights.
        batch: Of one example.
        task: Number of the task.
    """
    embedded = scorer.embedder.embed(batch)
    nothing = scorer.embedder.embed_unknown(embedded)
    inputs, _ = scorer.inputs(embedded, batch.times_ms)
    baseline, _ = scorer.inputs(nothing, batch.times_ms)
    names = [f.name for f in scorer.featurizer.fields]
    past = scorer.definition.sequence
    if past is not None and inputs.sequence is None:
        names.append(past.name)
    return Question(
        precise(scorer.module),
        inputs,
        baseline._replace(numbers=torch.zeros_like(baseline.numbers)),
        Names(names, scorer.featurizer.numbers, past.name if past is not None else "sequence"),
        task,
        _means(embedded, inputs),
        _means(nothing, baseline),
    )


def _means(embedded: Embedded, inputs: Inputs) -> Tensor | None:
    """What each field's mean counts in the wide logits, [B, F, T]; a field that is only the model's own, nothing."""
    if embedded.moments is None or embedded.means is None:
        return None
    shrunk = embedded.means / np.sqrt(1.0 + MODERATION * embedded.moments[:, None, :, 1])
    more = inputs.linear.shape[1] - shrunk.shape[1]
    return torch.from_numpy(np.pad(shrunk, ((0, 0), (0, more), (0, 0))))
