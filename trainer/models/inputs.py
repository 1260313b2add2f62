"""What every model takes: pooled rows of the fields, numbers, and what some models use besides."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """B examples of F fields, M numbers, T tasks, and N items of the visitor's past. All float32 unless said.

    Attributes:
        linear: [B, F], each field's pooled linear weight; of Gaussian weights the mean.
        vectors: [B, F, K], each field's pooled vector; K may be 0.
        numbers: [B, M], standardised; M may be 0.
        wide: [B, T], the logit of weights that learn by themselves, detached. A model adds it instead of its own
            linear sum and bias.
        confidence: [B, F], 1 - v / v0 of the Gaussian weights: 0 for an id never seen, near 1 for one well known.
        sequence: [B, N, K], vectors of the visitor's last items, from the table of the candidate's own field.
        mask: bool[B, N], which places of the sequence hold an item. Without it all do.
        ages: [B, N], log(1 + seconds) since each item of the sequence.
    """

    linear: Tensor
    vectors: Tensor
    numbers: Tensor
    wide: Tensor | None = None
    confidence: Tensor | None = None
    sequence: Tensor | None = None
    mask: Tensor | None = None
    ages: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model must know before it sees its first input.

    Attributes:
        fields: F.
        dim: K.
        numbers: M.
        tasks: T.
        hidden: Widths of the hidden layers.
        sequence_length: N, 0 if there is no sequence.
        target: The candidate's own field, whose table the sequence shares. Needed with a sequence.
        gaussian: Whether `wide` and `confidence` come with every input.

    Raises:
        ValueError: If there is a sequence without a target among the fields.
    """

    fields: int
    dim: int
    numbers: int
    tasks: int
    hidden: tuple[int, ...]
    sequence_length: int = 0
    target: int | None = None
    gaussian: bool = False

    def __post_init__(self) -> None:
        if self.sequence_length and (self.target is None or not 0 <= self.target < self.fields):
            raise ValueError(f"target: a sequence needs the candidate's own field, 0 to {self.fields - 1}")

    @property
    def flat(self) -> int:
        """F * K + M, the width of :func:`flatten`."""
        return self.fields * self.dim + self.numbers
