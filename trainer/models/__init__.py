"""Models: torch modules over one interface, one file each.

A model takes :class:`~trainer.models.inputs.Inputs` and gives one logit per task, float32[B, T]. Its parameters, those
without gradient included, are all that it knows: they are what a commit carries.
"""

import torch

from trainer.definition import Definition
from trainer.models.dcn import DCN
from trainer.models.deepfm import DeepFM
from trainer.models.din import DIN
from trainer.models.fm import FM
from trainer.models.inputs import Shape
from trainer.models.model import Model
from trainer.models.residual import Residual
from trainer.settings import ModelSettings

torch.set_num_threads(1)  # batches are small, and sums must not depend on how many cores there are


def build_model(definition: Definition, shape: Shape) -> Model:
    """The definition's model with initial weights that depend on its seed and the shape alone.

    Args:
        definition: Names the model.
        shape: Of its inputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(definition.seed)
        return _build(definition.model, shape)


def _build(settings: ModelSettings, shape: Shape) -> Model:
    match settings.name:
        case "deepfm":
            return DeepFM(shape)
        case "fm":
            return FM(shape)
        case "dcn":
            return DCN(shape, settings.cross_layers, settings.low_rank)
        case "din":
            return DIN(shape, settings.attention_hidden)
        case "residual":
            return Residual(shape)
