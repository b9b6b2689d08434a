"""NATTEN 0.20 and 0.21: fused operators and modules with a stride."""

from visionattn.compat.natten import _modules, _neighborhood
from visionattn.compat.natten._attention import attention as attention
from visionattn.compat.natten._attention import merge_attentions as merge_attentions
from visionattn.compat.natten.configs import *  # noqa: F403
from visionattn.compat.natten.context import *  # noqa: F403

HAS_LIBNATTEN = True
__version__ = "0.21.7"

na1d, na2d, na3d = (_neighborhood.current(rank, __name__) for rank in (1, 2, 3))
NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D = (
    _modules.neighborhood_module(rank, _modules.natten_0_21, __name__) for rank in (1, 2, 3)
)
