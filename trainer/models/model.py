"""What all models share: the additive part, the tower of layers, and the sum of both."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.models.inputs import Inputs, Shape

Backward = Callable[[NDArray[np.float32]], None]
"""Takes the gradient of a loss with respect to each logit, float32[B, T], and adds to the parameters' gradients."""


class Model(nn.Module):
    """One logit per task: what adds up over the fields, and what a model makes of them together.

    The additive part is the sum of the linear weights and a bias per task (or, if it is given, the wide logit), and
    a linear function of the numbers that starts at zero.

    Args:
        shape: Of the inputs.
        numeric: Whether the additive part has the linear function of the numbers.
    """

    def __init__(self, shape: Shape, numeric: bool = True) -> None:
        super().__init__()
        self.shape = shape
        self.bias = nn.Parameter(torch.zeros(shape.tasks))
        self.numeric = Output(shape.numbers, shape.tasks) if numeric and shape.numbers else None

    def additive(self, inputs: Inputs) -> Tensor:
        """[B, T], affine in `linear`, `wide` and `numbers`, and in nothing else."""
        logits = inputs.linear.sum(1, keepdim=True) + self.bias if inputs.wide is None else inputs.wide
        return logits if self.numeric is None else logits + self.numeric(inputs.numbers)

    def deep(self, inputs: Inputs) -> Tensor:
        """[B, T], the rest of the logit."""
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, [B, T]. Each row's depend on that row alone."""
        return self.additive(inputs) + self.deep(inputs)

    def run(self, inputs: Inputs) -> tuple[NDArray[np.float32], Backward]:
        """Logits to learn from, and what takes their gradients back to the parameters and to leaves of the inputs.

        A model may have a faster way than torch's; both give the same numbers but for their rounding.
        """
        logits = self(inputs)

        def backward(errors: NDArray[np.float32]) -> None:
            if logits.requires_grad:
                logits.backward(torch.from_numpy(errors))

        return logits.detach().numpy(), backward

    def observe(self) -> None:
        """Takes what the last forward pass saw into running statistics, where a model has some."""


def flatten(inputs: Inputs) -> Tensor:
    """Vectors and numbers side by side: [B, F * K + M]."""
    return torch.cat((inputs.vectors.flatten(1), inputs.numbers), 1)


def narrow(weight: Tensor, x: Tensor) -> Tensor:
    """A linear layer of few columns, [B, width] -> [B, few], of its weight, [few, width].

    The product is taken the other way round: as usual, with 8 columns or fewer it rounds a row by its place in the
    batch, and rows that are equal must have equal scores.
    """
    return (weight @ x.T).T


class Output(nn.Module):
    """A linear layer without bias that starts at zero, so that at first it changes nothing: [B, width] -> [B, T].

    Args:
        width: Of the input.
        tasks: T.
    """

    def __init__(self, width: int, tasks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tasks, width))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return narrow(self.weight, x)


class _Nothing(nn.Module):
    """Zero for every task."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self._tasks = tasks

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self._tasks)


def _relu(_: int) -> nn.Module:
    return nn.ReLU()


def tower(
    width: int, hidden: tuple[int, ...], tasks: int, activation: Callable[[int], nn.Module] = _relu
) -> nn.Sequential:
    """Hidden layers and a last one that starts at zero: [B, width] -> [B, tasks].

    Args:
        width: Of the input; with 0 there is nothing to learn, and the output is zero for good.
        hidden: Widths of the hidden layers.
        tasks: T.
        activation: Gives a layer's activation by its width.
    """
    if not width:
        return nn.Sequential(_Nothing(tasks))
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), activation(size)]
        width = size
    return nn.Sequential(*layers, Output(width, tasks))
