"""DeepFM: a linear part, all pairwise products of the fields' vectors, and a network over them.

**Source**: Guo et al. 2017, DeepFM (arXiv 1703.04247), equations 1 to 4.
"""

from torch import Tensor

from trainer.models.fm import pairwise
from trainer.models.inputs import Inputs, Shape
from trainer.models.model import Model, flatten, tower


class DeepFM(Model):
    """Linear + pairwise + network. All tasks share the pairs, and have an output of the network each."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.network = tower(shape.flat, shape.hidden, shape.tasks)

    def deep(self, inputs: Inputs) -> Tensor:
        """The pairs and the network."""
        logits: Tensor = self.network(flatten(inputs))
        return logits + pairwise(inputs.vectors)
