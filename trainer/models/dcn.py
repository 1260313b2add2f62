"""DCN-v2: layers that cross the input with itself, beside a network.

**Source**: Wang et al. 2021, DCN V2 (arXiv 2008.13535): the cross layer is equation 1, x' = x0 * (W x + b) + x; its
low-rank form, W = U V^T, equation 2; cross layers and network stand side by side (the parallel structure of figure
1), so that the last layer over both is a sum of two.
"""

from torch import Tensor, nn

from trainer.models.inputs import Inputs, Shape
from trainer.models.model import Model, Output, flatten, narrow, tower


class CrossLayer(nn.Module):
    """x' = x0 * (W x + b) + x.

    Args:
        width: D.
        rank: Of W; None: full.
    """

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        low = rank is not None and rank < width
        self.shrink = nn.Linear(width, rank, bias=False) if low and rank else None
        self.product = nn.Linear(rank if low and rank else width, width)
        nn.init.zeros_(self.product.bias)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """One more crossing: [B, D] of the network's input and [B, D] of the layer before."""
        crossed: Tensor = self.product(x if self.shrink is None else narrow(self.shrink.weight, x))
        return first * crossed + x


class DCN(Model):
    """Linear + cross layers + network.

    Args:
        shape: Of the inputs.
        layers: How many cross layers.
        rank: Of their matrices; None: full.
    """

    def __init__(self, shape: Shape, layers: int, rank: int | None) -> None:
        super().__init__(shape)
        some = layers if shape.flat else 0
        self.cross = nn.ModuleList([CrossLayer(shape.flat, rank) for _ in range(some)])
        self.crossed = Output(shape.flat, shape.tasks) if some else None
        self.network = tower(shape.flat, shape.hidden, shape.tasks)

    def deep(self, inputs: Inputs) -> Tensor:
        """The crossings and the network."""
        first = x = flatten(inputs)
        for layer in self.cross:
            x = layer(first, x)
        logits: Tensor = self.network(first)
        return logits if self.crossed is None else logits + self.crossed(x)
