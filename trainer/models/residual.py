"""A network that corrects the logit of a linear model which learns by itself.

logit = wide + linear(x) + network(x), x = (wide, each field's linear weight, the confidence in it, numbers). The
linear function and the network's last layer start at zero. So the model starts as the wide one, and the network
learns only what is left; the wide part learns from its own prediction and is not disturbed.

**Source**: the form is that of residual learning, He et al. 2016 (arXiv 1512.03385), equation 1, with the wide logit
as the identity; the sum of a linear and a deep logit is Cheng et al. 2016, Wide & Deep (arXiv 1606.07792), equation 3.
"""

import torch
from torch import Tensor

from trainer.models.inputs import Inputs, Shape
from trainer.models.model import Model, Output, tower


class Residual(Model):
    """Wide logit + what is left. Uses no vectors.

    Without a wide logit, the sum of the linear weights and the bias stands in its place.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, numeric=False)
        width = shape.tasks + shape.fields * (2 if shape.gaussian else 1) + shape.numbers
        self.line = Output(width, shape.tasks)
        self.network = tower(width, shape.hidden, shape.tasks)

    def deep(self, inputs: Inputs) -> Tensor:
        """The correction."""
        parts = [self.additive(inputs), inputs.linear, inputs.numbers]
        if self.shape.gaussian:
            unknown = torch.zeros_like(inputs.linear)
            parts.insert(2, unknown if inputs.confidence is None else inputs.confidence)
        x = torch.cat(parts, 1)
        correction: Tensor = self.line(x) + self.network(x)
        return correction
