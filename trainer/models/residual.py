"""A network that corrects the logit of a linear model which learns by itself.

logit = wide + linear(x) + network(x), x = (wide, each field's linear weight, the confidence in it, numbers). The
linear function and the network's last layer start at zero. So the model starts as the wide one, and the network
learns only what is left; the wide part learns from its own prediction and is not disturbed.

**Source**: the form is that of residual learning, He et al. 2016 (arXiv 1512.03385), equation 1, with the wide logit
as the identity; the sum of a linear and a deep logit is Cheng et al. 2016, Wide & Deep (arXiv 1606.07792), equation 3.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.models.inputs import Inputs, Shape
from trainer.models.model import Backward, Model, Output, tower


class Residual(Model):
    """Wide logit + what is left. Uses no vectors.

    Without a wide logit, the sum of the linear weights and the bias stands in its place.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, numeric=False)
        width = shape.tasks + shape.fields * (2 if shape.gaussian else 1) + shape.numbers
        self.line = Output(width, shape.tasks)
        self.network = tower(width, shape.hidden, shape.tasks)

    def _parts(self, inputs: Inputs) -> list[Tensor]:
        parts = [self.additive(inputs), inputs.linear, inputs.numbers]
        if self.shape.gaussian:
            unknown = torch.zeros_like(inputs.linear)
            parts.insert(2, unknown if inputs.confidence is None else inputs.confidence)
        return parts

    def deep(self, inputs: Inputs) -> Tensor:
        """The correction."""
        x = torch.cat(self._parts(inputs), 1)
        correction: Tensor = self.line(x) + self.network(x)
        return correction

    def run(self, inputs: Inputs) -> tuple[NDArray[np.float32], Backward]:
        """With a wide logit no input is a leaf, and the network is small: plain products cost a third of torch's."""
        if inputs.wide is None:
            return super().run(inputs)
        x: NDArray[np.float32] = np.concatenate([part.numpy() for part in self._parts(inputs)], 1)
        line = self.line.weight
        layers = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        output = self.network[-1]
        assert isinstance(output, Output)  # noqa: S101 - as the tower is built
        last = output.weight
        seen = [x]
        with np.errstate(invalid="ignore"):  # BLAS may flag lanes past an edge; who learns looks at what came out
            for layer in layers:
                seen.append(np.maximum(seen[-1] @ _values(layer.weight).T + _values(layer.bias), 0.0))
            logits: NDArray[np.float32] = inputs.wide.numpy() + x @ _values(line).T + seen[-1] @ _values(last).T

        def backward(errors: NDArray[np.float32]) -> None:
            _slopes(line)[:] += errors.T @ x
            _slopes(last)[:] += errors.T @ seen[-1]
            flow = errors @ _values(last)
            for place in range(len(layers) - 1, -1, -1):
                flow = flow * (seen[place + 1] > 0)
                _slopes(layers[place].weight)[:] += flow.T @ seen[place]
                _slopes(layers[place].bias)[:] += flow.sum(0)
                if place:
                    flow = flow @ _values(layers[place].weight)

        return logits, backward


def _values(parameter: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = parameter.detach().numpy()
    return values


def _slopes(parameter: Tensor) -> NDArray[np.float32]:
    """The gradient's own memory."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    slopes: NDArray[np.float32] = parameter.grad.numpy()
    return slopes
