"""NATTEN 0.14 and 0.15: unfused operators, modules with a relative bias by default that pad small maps."""

from visionattn.compat.natten import _modules
from visionattn.compat.natten.functional import *  # noqa: F403

HAS_LIBNATTEN = True
__version__ = "0.14.6"

NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D = (
    _modules.neighborhood_module(rank, _modules.natten_0_14, __name__) for rank in (1, 2, 3)
)
