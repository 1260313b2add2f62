"""Factorization machine: a linear part and all pairwise products of the fields' vectors.

**Source**: Rendle 2010, Factorization Machines (ICDM), equation 1; computed in linear time by lemma 3.1.
"""

from torch import Tensor

from trainer.models.inputs import Inputs
from trainer.models.model import Model


def pairwise(vectors: Tensor) -> Tensor:
    """Sum of the inner products of all pairs of fields: [B, F, K] -> [B, 1]."""
    total = vectors.sum(1)
    return 0.5 * ((total * total).sum(1) - (vectors * vectors).sum((1, 2)))[:, None]


class FM(Model):
    """Linear + pairwise. All tasks share the pairs."""

    def deep(self, inputs: Inputs) -> Tensor:
        """The pairs, for every task."""
        return pairwise(inputs.vectors).expand(-1, self.shape.tasks)
