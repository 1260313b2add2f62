"""One step of each kind: of rows and network on a training batch, of alpha on a validation batch."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from trainer.search import selection
from trainer.search.matrices import Matrices
from trainer.search.network import Examples, Network, take

Optimizer = Literal["adam", "adagrad"]
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class RowOptimizer:
    """Adagrad with one accumulator a row, or Adam number by number, over the touched rows.

    **Source**: Duchi et al. 2011, Adaptive Subgradient Methods, of a row's mean square, as a live table has it, so that
    turning the axes changes nothing; Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1, its moments moved only where a
    row is touched.

    Args:
        values: float32[R, W], changed by :meth:`step`.
        kind: Of the two.
        rate: Learning rate.
    """

    def __init__(self, values: Tensor, kind: Optimizer, rate: float) -> None:
        self._values, self._kind, self._rate = values, kind, rate
        self._first = torch.zeros_like(values if kind == "adam" else values[:0])
        self._second = torch.zeros(len(values), values.shape[1] if kind == "adam" else 1)
        self._count = 0

    def step(self, distinct: Tensor, gradient: Tensor, widths: Tensor) -> None:
        """One step.

        Args:
            distinct: int64[u], rows, all different.
            gradient: float32[u, W].
            widths: float32[u], numbers of each row that are in use.
        """
        self._count += 1
        square = gradient * gradient
        if self._kind == "adagrad":
            total = self._second[distinct] + square.sum(1, keepdim=True) / widths[:, None]
            self._second[distinct] = total
            self._values[distinct] -= self._rate * gradient / (total.sqrt() + _EPSILON)
            return
        mean = torch.lerp(self._first[distinct], gradient, 1 - _BETA1)
        second = torch.lerp(self._second[distinct], square, 1 - _BETA2)
        self._first[distinct], self._second[distinct] = mean, second
        corrected = (second / (1 - _BETA2**self._count)).sqrt() + _EPSILON
        self._values[distinct] -= self._rate / (1 - _BETA1**self._count) * mean / corrected

    def rotate(self, own: slice, turn: Tensor) -> None:
        """Takes the state of some rows along when their axes are turned, float32[W, W]; squares are evened out."""
        if self._kind == "adam":
            self._first[own] = self._first[own] @ turn
            self._second[own] = self._second[own].mean(1, keepdim=True).expand(-1, turn.shape[0])


class Steps:
    """What moves a network.

    Args:
        network: Changed by the steps.
        optimizer: Of the rows.
        rate: Of the rows.
        network_rate: Adam's, of the dense weights.
    """

    def __init__(self, network: Network, optimizer: Optimizer, rate: float, network_rate: float) -> None:
        self.network = network
        self._rate = rate
        self._rows = RowOptimizer(network.rows, optimizer, rate)
        self._linear = None if network.linear is None else RowOptimizer(network.linear[:, None], optimizer, rate)
        self._dense = torch.optim.Adam(network.module.parameters(), network_rate)

    def rotate(self, matrices: Mapping[str, NDArray[np.float64]]) -> None:
        """Turns the axes of some tables, see :meth:`Network.rotate`, and the optimizer's state with them."""
        self.network.rotate(matrices)
        for table in self.network.tables:
            if table.name in matrices:
                turn = torch.from_numpy(matrices[table.name].astype(np.float32))
                self._rows.rotate(slice(table.first, table.last), turn)

    def learn(self, examples: Examples, frozen: bool = False) -> None:
        """Rows and dense weights go down the mean loss of a training batch.

        **Source**: arXiv 2006.04466, algorithm 1, the lower level of its equation 3.

        Args:
            examples: The batch.
            frozen: Leaves the dense weights as they are.
        """
        network = self.network
        values = network.rows[examples.distinct].requires_grad_()
        linear = None if network.linear is None else network.linear[examples.distinct].requires_grad_()
        loss = _loss(network.forward(examples, values, linear, network.alpha), examples)
        self._dense.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature has no types
        if not frozen:
            self._dense.step()
        if values.grad is not None:
            widths = (network.alpha > 0).sum(1).clamp(min=1)[network.blocks[examples.distinct]].float()
            self._rows.step(examples.distinct, values.grad, widths)
        if self._linear is not None and linear is not None and linear.grad is not None:
            one = torch.ones(len(examples.distinct))
            self._linear.step(examples.distinct, linear.grad[:, None], one)

    def alpha_gradient(
        self, data: Matrices, validation: NDArray[np.int64], training: NDArray[np.int64] | None, l1: float
    ) -> NDArray[np.float64]:
        """d/d alpha of a validation batch's mean loss + l1 * Σ|alpha|.

        With a training batch, of the loss that the rows would have after one more step of plain gradient descent on
        it: E' = E - rate * d L_train(E, alpha) / d E, and alpha's part in that step counts.

        **Source**: arXiv 2006.04466, equation 3 and algorithm 1; the look-ahead as in Liu et al. 2019, DARTS (arXiv
        1806.09055), equation 6, here exact, by differentiating through the step.

        Args:
            data: Of the lines.
            validation: int64[n], lines.
            training: int64[m], lines; None: to first order.
            l1: Weight of the sum.

        Returns:
            float64[B, K].
        """
        network = self.network
        alpha = network.alpha.clone().requires_grad_()
        if training is None:
            examples = take(data, validation)
            values = network.rows[examples.distinct]
            linear = None if network.linear is None else network.linear[examples.distinct]
            loss = _loss(network.forward(examples, values, linear, alpha), examples)
        else:
            both = take(data, np.concatenate([training, validation]))
            first, second = _split(both, training.size)
            values = network.rows[both.distinct].requires_grad_()
            linear = None if network.linear is None else network.linear[both.distinct]
            lower = _loss(network.forward(first, values, linear, alpha), first)
            (slope,) = torch.autograd.grad(lower, values, create_graph=True)
            loss = _loss(network.forward(second, values - self._rate * slope, linear, alpha), second)
        (gradient,) = torch.autograd.grad(loss + l1 * alpha.abs().sum(), alpha)
        return np.asarray(gradient.numpy(), dtype=np.float64)

    def select(
        self, gradient: NDArray[np.float64], rate: float, penalty: float, largest: float, shared: bool = False
    ) -> None:
        """Moves alpha, see :func:`trainer.search.selection.step`; `shared`: all numbers of a block alike."""
        if shared:
            gradient = np.broadcast_to(gradient.mean(axis=1, keepdims=True), gradient.shape)
        moved = selection.step(self.network.alpha.numpy(), gradient, rate, penalty, largest=largest)
        self.network.alpha = torch.from_numpy(moved)


def contributions(network: Network, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """What single numbers do to the logits of some examples.

    Returns:
        The block of each slot's row int64[b, S], d logit / d vector float32[b, S, K] before the rotation back, and the
        selected numbers alpha * e, float32[b, S, K].
    """
    values = network.rows[examples.distinct]
    blocks = network.blocks[examples.distinct][examples.places]
    selected = (values * network.alpha[network.blocks[examples.distinct]])[examples.places]
    slots = network.vectors(examples.distinct, values, network.alpha)[examples.places].requires_grad_()
    linear = None if network.linear is None else network.linear[examples.distinct]
    total = network.logits(examples, slots, linear).sum()
    (gradient,) = torch.autograd.grad(total, slots)
    return blocks, network.turned(gradient), selected


def _loss(logits: Tensor, examples: Examples) -> Tensor:
    return binary_cross_entropy_with_logits(logits, examples.labels)


def _split(both: Examples, size: int) -> tuple[Examples, Examples]:
    """The first examples and the rest, over one list of distinct rows."""
    return (
        Examples(both.distinct, both.places[:size], both.shares[:size], both.numbers[:size], both.labels[:size]),
        Examples(both.distinct, both.places[size:], both.shares[size:], both.numbers[size:], both.labels[size:]),
    )
