"""NATTEN 0.17: unfused and fused operators, modules with an optional relative bias that reject small maps."""

from visionattn.compat.natten import _modules
from visionattn.compat.natten.context import *  # noqa: F403
from visionattn.compat.natten.functional import *  # noqa: F403

HAS_LIBNATTEN = True
__version__ = "0.17.5"

NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D = (
    _modules.neighborhood_module(rank, _modules.natten_0_17, __name__) for rank in (1, 2, 3)
)
