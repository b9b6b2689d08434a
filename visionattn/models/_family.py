"""Which model file of ours knows a network: its checkpoint filter and its output norms for dense prediction."""

import importlib
from dataclasses import dataclass
from types import ModuleType

from torch import nn

__all__ = ["OutputNorms", "family_of"]

# Networks that timm has: we add what it lacks in a file of ours.
_ADOPTED = {"timm.models.mambaout": "visionattn.models.mambaout"}


@dataclass(frozen=True)
class OutputNorms:
    """Layer norms over channels that the dense-prediction models of a paper put on each stage's map.

    They are no part of a classification checkpoint. A model file names its own as `OUTPUT_NORMS`.

    Attributes:
        eps: Epsilon of the norms.
        names: Regular expression of their names in a released checkpoint: its groups are the stage, and "weight" or
            "bias".
    """

    eps: float
    names: str = r"^norm(\d+)\.(weight|bias)$"


def family_of(network: nn.Module) -> ModuleType:
    """The module of `network`'s class, or the one of ours that adds to a class of timm."""
    name = type(network).__module__
    return importlib.import_module(_ADOPTED.get(name, name))
