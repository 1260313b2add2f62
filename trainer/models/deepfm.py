"""DeepFM: a linear part, all pairwise products of the fields' vectors, and a network over them.

**Source**: Guo et al. 2017, DeepFM (arXiv 1703.04247), equations 1 to 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DeepFM(nn.Module):
    """Linear + pairwise + network. Tasks share the first two and have a bias and a network output each.

    The network's last layer starts at zero, so that at first it changes nothing.

    Args:
        fields: F.
        dim: K, numbers of a field's vector.
        numbers: M, plain numeric inputs.
        tasks: T.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, fields: int, dim: int, numbers: int, tasks: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = fields * dim + numbers
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        last = nn.Linear(width, tasks, bias=False)
        nn.init.zeros_(last.weight)
        self.network = nn.Sequential(*layers, last)
        self.bias = nn.Parameter(torch.zeros(tasks))
        self.numeric = nn.Linear(numbers, tasks, bias=False) if numbers else None
        if self.numeric is not None:
            nn.init.zeros_(self.numeric.weight)

    def forward(self, fields: Tensor, numbers: Tensor) -> Tensor:
        """Logits, float32[B, T], of fields float32[B, F, 1 + K] and numbers float32[B, M]."""
        vectors = fields[:, :, 1:]
        total = vectors.sum(1)
        shared = fields[:, :, 0].sum(1) + 0.5 * ((total * total).sum(1) - (vectors * vectors).sum((1, 2)))
        flat = vectors.reshape(vectors.shape[0], -1)
        logits: Tensor = self.network(flat if self.numeric is None else torch.cat((flat, numbers), 1))
        logits = logits + shared[:, None] + self.bias
        return logits if self.numeric is None else logits + self.numeric(numbers)
