"""The soft selection of one table on the live stream. Plain NumPy; everything it knows is in the commit.

What is served is never multiplied by alpha. A batch is scored before it is learned from, so its gradients are those of
a validation batch; from them follows how the loss would move with alpha. With x_k = (d loss / d e_k) * e_k of one
looked-up vector e, the loss as a function of alpha near 1 is, to second order,

    L(alpha) = L(1) + sum_k [x_k * (alpha_k - 1) + x_k^2 / 2 * (alpha_k - 1)^2],

the curvature of a log loss being the expected square of its gradient. Alpha descends that.

**Sources**: Cheng et al. 2020, Differentiable Neural Input Search (arXiv 2006.04466), for the descent; Amari 1998,
Natural Gradient Works Efficiently in Learning, for the curvature (there the Fisher information).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.plan import TablePlan
from trainer.search.alignment import rotation
from trainer.search.selection import step, to_plan

BLOCKS = 24
"""Frequency blocks: block l holds ids that were seen 2^l to 2^(l + 1) - 1 times, the last one all that are beyond."""
BOUNDS = tuple(1 << level for level in range(1, BLOCKS))
_HALF_LIFE = 200_000  # lookups; of the moments that the axes are chosen by
_LEAST = 200  # of these lookups, for a block to have a say
THRESHOLD = 0.5
"""Dimensions whose alpha is above it are in use."""


class Descent(NamedTuple):
    """How alpha moves.

    Attributes:
        rate: Of a step.
        penalty: By how much of a block's mean gradient alpha is drawn to 0.
        every: Examples of a step.
        floor: Least alpha; above 0, so that a dimension can come back.
    """

    rate: float
    penalty: float
    every: int = 512
    floor: float = 0.1


def block_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The block of ids that were seen so often, int64[n] -> int64[n].

    >>> block_of(np.array([0, 1, 2, 3, 4, 640])).tolist()
    [0, 0, 1, 1, 2, 9]
    """
    return np.searchsorted(np.array(BOUNDS), counts, side="right").astype(np.int64)


class LiveTable:
    """Alpha of one table.

    Args:
        dim: K, full width.

    Attributes:
        alpha: float64[L, K].
        seen: float64[L], lookups in each block since the axes were chosen.
        reached: float64[L], how many ids are in each block; those that expired are still counted, those that were not
            in the trainer's memory when the search was switched on are not.
        axes: float64[K, K], columns: the axes that alpha belongs to; the plan's matrix, or those chosen since.
    """

    _PARTS = ("alpha", "seen", "reached", "axes", "pending", "gradients", "uses", "powers")

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.alpha = np.ones((BLOCKS, dim))
        self.seen = np.zeros(BLOCKS)
        self.reached = np.zeros(BLOCKS)
        self.axes = np.eye(dim)
        self.pending = np.zeros((BLOCKS, dim))
        self.gradients = np.zeros((dim, dim))
        self.uses = np.zeros((dim, dim))
        self.powers = np.zeros((2, BLOCKS))

    # What the stream brings

    def observe(
        self, blocks: NDArray[np.int64], vectors: NDArray[np.float32], gradients: NDArray[np.float32], aligning: bool
    ) -> None:
        """Takes in what a batch looked up, before it is learned from.

        Args:
            blocks: int64[n].
            vectors: float32[n, K], as they were served.
            gradients: float32[n, K], of the loss in the vectors.
            aligning: Whether axes are to be chosen later on.
        """
        into = np.linalg.inv(self.axes).T.astype(np.float32)
        x = (gradients @ self.axes.astype(np.float32)) * (vectors @ into)
        in_block = np.zeros((BLOCKS, blocks.size), dtype=np.float32)
        in_block[blocks, np.arange(blocks.size)] = 1.0
        self.pending += in_block @ x - (in_block @ (x * x)) * (1.0 - self.alpha)
        lookups = in_block.sum(1)
        for block in np.flatnonzero((self.seen == 0) & (lookups > 0))[::-1].tolist():
            self.alpha[block] = self.alpha[max(block - 1, 0)]  # its ids come from there
        self.seen += lookups
        if aligning:
            self._note_use(in_block, blocks, vectors, gradients)

    def _note_use(
        self,
        in_block: NDArray[np.float32],
        blocks: NDArray[np.int64],
        vectors: NDArray[np.float32],
        gradients: NDArray[np.float32],
    ) -> None:
        """Moments for the choice of axes, older ones fading.

        Each block weighs alike, however often it is looked up and however much it moves the loss.
        """
        fading = 0.5 ** (blocks.size / _HALF_LIFE)
        for moments in (self.powers, self.uses, self.gradients):
            moments *= fading
        self.powers += in_block.sum(1), in_block @ (gradients * vectors).sum(1) ** 2
        known = (self.powers[0] >= _LEAST) & (self.powers[1] > 0)
        weights = np.divide(self.powers[0].sum(), self.powers[1], out=np.zeros(BLOCKS), where=known)
        self.uses += (vectors * weights[blocks, None].astype(np.float32)).T @ vectors
        self.gradients += gradients.T @ gradients

    def count(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        """Takes in that ids moved up: counts of distinct rows, int64[n] each, 0 before for a new one."""
        self.reached += np.bincount(block_of(after), minlength=BLOCKS)
        self.reached -= np.bincount(block_of(before)[before > 0], minlength=BLOCKS)

    def descend(self, how: Descent, live: NDArray[np.bool_]) -> None:
        """One step of alpha along what was observed since the last one; dimensions that are not live stay at 0."""
        moved = step(self.alpha.astype(np.float32), self.pending, how.rate, how.penalty, how.floor, np.inf)
        self.alpha = np.where(live, moved.astype(np.float64), 0.0)
        self.pending[:] = 0.0

    def align(self) -> None:
        """Chooses the principal axes of what the blocks use, and begins anew along them."""
        self.begin(rotation(self.uses[None], self.gradients))
        self.gradients[:] = self.uses[:] = self.powers[:] = 0.0

    def begin(self, axes: NDArray[np.float64]) -> None:
        """Alpha is 1 along these axes."""
        self.axes = axes
        self.alpha[:] = 1.0
        self.seen[:] = self.pending[:] = 0.0

    # What follows from it

    def in_use(self) -> NDArray[np.bool_]:
        """Dimensions whose alpha is above the threshold, in each block at least the best: bool[L, K]."""
        found = self.alpha > THRESHOLD
        found[np.arange(BLOCKS), self.alpha.argmax(1)] = True
        return np.asarray(found)

    def wanted(self, least: int, spare: int) -> NDArray[np.bool_] | None:
        """What each block should keep: bool[L, K]; None while no block is known well enough.

        Args:
            least: Lookups of a block that is known. Others keep what the next more frequent one keeps, or, past the
                last, the next rarer one.
            spare: So many dimensions more than are in use, those of largest alpha: there it shows whether more are
                needed.
        """
        known = np.flatnonzero(self.seen >= least)
        if not known.size:
            return None
        kept = self.in_use()
        order = np.argsort(-np.where(kept, -1.0, self.alpha), axis=1, kind="stable")
        for block in range(BLOCKS):
            more = min(spare, self.dim - int(kept[block].sum()))
            kept[block, order[block, :more]] = True
        source = known[np.minimum(np.searchsorted(known, np.arange(BLOCKS)), known.size - 1)]
        return np.asarray(kept[source])

    def plan(self, kept: NDArray[np.bool_]) -> TablePlan:
        """The plan that keeps these dimensions along the present axes."""
        is_plain = np.array_equal(self.axes, np.eye(self.dim))
        return to_plan(BOUNDS, kept, None if is_plain else self.axes)

    def numbers(self, kept: NDArray[np.bool_]) -> float:
        """Numbers of all vectors if the blocks keep these dimensions."""
        return float(np.maximum(self.reached, 0.0) @ kept.sum(1))

    # In the commit

    def to_bytes(self) -> bytes:
        """All of it."""
        return b"".join(getattr(self, name).astype("<f8").tobytes() for name in self._PARTS)

    def load(self, data: bytes) -> bool:
        """Takes what :meth:`to_bytes` gave; False, and nothing is changed, if it is of another width."""
        parts = [getattr(self, name) for name in self._PARTS]
        if len(data) != 8 * sum(part.size for part in parts):
            return False
        values, at = np.frombuffer(data, dtype="<f8"), 0
        for part in parts:
            part[...] = values[at : at + part.size].reshape(part.shape)
            at += part.size
        return True


def kept_by(plan: TablePlan | None, dim: int) -> NDArray[np.bool_]:
    """What a plan keeps in each of the search's blocks: bool[L, K]. A block that a bound divides keeps what both do."""
    found = np.zeros((BLOCKS, dim), dtype=np.bool_)
    if plan is None:
        return ~found
    begins = (0, *plan.bounds)
    ends = (*plan.bounds, 1 << 62)
    for block in range(BLOCKS):
        low, high = (1 << block if block else 0), (1 << (block + 1) if block < BLOCKS - 1 else 1 << 62)
        rows = [kept for kept, begin, end in zip(plan.kept, begins, ends, strict=True) if begin < high and end > low]
        found[block] = np.logical_and.reduce([np.isin(np.arange(dim), kept) for kept in rows])
    return found
