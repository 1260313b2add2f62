"""Models: torch modules over one interface, one file each.

A model takes pooled rows of the fields, float32[B, F, 1 + K] (first the linear weight, then the vector), and
standardised numbers, float32[B, M], and gives one logit per task, float32[B, T].
"""

import torch
from torch import nn

from trainer.definition import Definition
from trainer.models.deepfm import DeepFM

torch.set_num_threads(1)  # batches are small, and sums must not depend on how many cores there are


def build_model(definition: Definition, fields: int, numbers: int) -> nn.Module:
    """The definition's model with initial weights that depend on its seed alone.

    Args:
        definition: Names the model and its shape.
        fields: F, features with ids.
        numbers: M, plain numbers.
    """
    dim = max(table.dim for table in definition.tables)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(definition.seed)
        return DeepFM(fields, dim, numbers, len(definition.tasks), definition.model.hidden)
