"""Dice: an activation whose turning point follows the data.

f(s) = p(s) s + (1 - p(s)) a s, p(s) = 1 / (1 + exp(-(s - E[s]) / sqrt(Var[s] + e))), with a learned `a` for each unit.

E and Var are running statistics, in training too. The paper takes a mini-batch's own in training and running ones
when serving; then an example's score would depend on which others share its batch, and a score in training would
differ from the one that was served. They are held as parameters without gradient, so they lie among the dense
weights, travel with every commit, and the optimizer, whose steps are zero where gradients are, leaves them alone.

**Source**: Zhou et al. 2018, Deep Interest Network (arXiv 1706.06978), section 5.2, equations 8 and 9.
"""

import torch
from torch import Tensor, nn

_SMALLEST_VARIANCE = 1e-4  # keeps the turn of a unit that hardly varies from becoming a cliff
_WINDOW = 5_000.0  # samples that running statistics reach back, about


class Dice(nn.Module):
    """The activation of a layer.

    Args:
        width: D, units of the layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(width))
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.variance = nn.Parameter(torch.ones(width), requires_grad=False)
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, s: Tensor, mask: Tensor | None = None) -> Tensor:
        """Activates s, [..., D]; the statistics heed only what the mask, bool[...], tells."""
        if self.training and torch.is_grad_enabled():
            self._seen = self._moments(s.detach(), mask)
        p = torch.sigmoid((s - self.mean) / torch.sqrt(self.variance + _SMALLEST_VARIANCE))
        return s * (p + (1.0 - p) * self.slope)

    def _moments(self, s: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, their mean, and their mean squared distance from the running mean."""
        s = s.flatten(0, -2)
        known = torch.ones_like(s[:, :1]) if mask is None else mask.flatten()[:, None].to(s.dtype)
        count = known.sum()
        share = known / count.clamp(min=1.0)
        return count, (share * s).sum(0), (share * (s - self.mean) ** 2).sum(0)

    def observe(self) -> None:
        """Takes the last forward pass into the running statistics, once."""
        if self._seen is None:
            return
        count, mean, squares = self._seen
        self._seen = None
        weight = count / (count + _WINDOW)
        with torch.no_grad():
            self.mean.lerp_(mean, weight)
            self.variance.lerp_(squares, weight)
