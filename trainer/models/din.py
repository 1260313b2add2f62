"""Deep Interest Network: the visitor's last items, weighted by what they mean for this candidate.

**Source**: Zhou et al. 2018, Deep Interest Network (arXiv 1706.06978): the weighted sum over the history is equation
3, with weights that are not normalised, so that their sum tells how strong the interest is; the activation is Dice
(equation 9, :mod:`trainer.models.dice`); mini-batch aware regularisation (equations 4 to 7) is
:func:`trainer.models.regularisation.batch_aware`. The activation unit sees both vectors, their difference and their
product, and the network also the product of interest and candidate, as in the authors' own code.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.models.dice import Dice
from trainer.models.inputs import Inputs, Shape
from trainer.models.model import Model, flatten, tower


class ActivationUnit(nn.Module):
    """How much each item of the past matters for the candidate.

    It starts by giving every item the same weight, 1.

    Args:
        dim: K.
        hidden: Widths of its hidden layers.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = (4 * dim + 1, *hidden)
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(widths)])
        self.activations = nn.ModuleList([Dice(width) for width in hidden])
        self.last = nn.Linear(widths[-1], 1)
        nn.init.zeros_(self.last.weight)
        nn.init.ones_(self.last.bias)

    def forward(self, history: Tensor, candidate: Tensor, ages: Tensor, mask: Tensor) -> Tensor:
        """Weights, [B, N], 0 where the mask, bool[B, N], has no item.

        Args:
            history: [B, N, K], finite everywhere.
            candidate: [B, K].
            ages: [B, N], finite everywhere.
            mask: bool[B, N].
        """
        other = candidate[:, None].expand_as(history)
        x = torch.cat((history, other, history - other, history * other, ages[:, :, None]), 2)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            x = activation(layer(x), mask)
        weights: Tensor = self.last(x)[:, :, 0]
        return weights.masked_fill(~mask, 0.0)


class DIN(Model):
    """Linear + a network over the fields, the numbers and the interest in the candidate.

    Without a sequence it is the paper's base model, a network over the fields and the numbers.

    Args:
        shape: Of the inputs.
        attention_hidden: Widths of the activation unit's hidden layers.
    """

    def __init__(self, shape: Shape, attention_hidden: tuple[int, ...]) -> None:
        super().__init__(shape)
        attends = bool(shape.sequence_length and shape.dim)
        self.attention = ActivationUnit(shape.dim, attention_hidden) if attends else None
        self.network = tower(shape.flat + 2 * shape.dim * attends, shape.hidden, shape.tasks, Dice)

    def deep(self, inputs: Inputs) -> Tensor:
        """The network."""
        x = flatten(inputs)
        if self.attention is not None:
            assert self.shape.target is not None  # noqa: S101 - a shape with a sequence has one
            candidate = inputs.vectors[:, self.shape.target]
            interest = self._interest(self.attention, inputs, candidate)
            x = torch.cat((x, interest, interest * candidate), 1)
        logits: Tensor = self.network(x)
        return logits

    @staticmethod
    def _interest(attention: ActivationUnit, inputs: Inputs, candidate: Tensor) -> Tensor:
        """The weighted sum of the history, [B, K]; what lies under the mask is never read."""
        if inputs.sequence is None:
            return torch.zeros_like(candidate)
        shape = inputs.sequence.shape[:2]
        mask = inputs.sequence.new_ones(shape, dtype=torch.bool) if inputs.mask is None else inputs.mask
        history = inputs.sequence.masked_fill(~mask[:, :, None], 0.0)
        ages = history.new_zeros(shape) if inputs.ages is None else inputs.ages.masked_fill(~mask, 0.0)
        weights: Tensor = attention(history, candidate, ages, mask)
        return (weights[:, :, None] * history).sum(1)

    def observe(self) -> None:
        """Takes what the last forward pass saw into the running statistics of Dice."""
        for part in self.modules():
            if isinstance(part, Dice):
                part.observe()
