"""NATTEN's interface on visionattn's operators: code for NATTEN 0.14, 0.17 or 0.21 runs after one changed import.

    from visionattn.compat.natten import NeighborhoodAttention2D, na2d          # was: from natten import ...
    from visionattn.compat.natten.functional import natten2dqkrpb, natten2dav   # was: from natten.functional import ...

or, without changing it at all, after `visionattn.compat.natten.install_as_natten()`.

The generations agree on names and not on everything else. One import serves all of them by these rules:

- `na1d`, `na2d`, `na3d` take positional arguments as in 0.21 here and as in 0.17 in `.functional`; any generation's
  keywords work in both.
- `NeighborhoodAttention1D/2D/3D` tell the generation, and with it bias and padding, from their keywords.
- The unfused operators tell a call without kernel size (up to 0.14.4) from the number of positional arguments.

`v0_14`, `v0_17` and `v0_21` hold one generation each, without rules. Arguments and switches that tune NATTEN's kernels
are checked and have no effect; what is not offered raises NotImplementedError naming it.
"""

from visionattn.compat.natten import _modules
from visionattn.compat.natten import configs as configs
from visionattn.compat.natten import context as context
from visionattn.compat.natten import functional as functional
from visionattn.compat.natten import utils as utils
from visionattn.compat.natten._install import install_as_natten as install_as_natten
from visionattn.compat.natten.functional import *  # noqa: F403
from visionattn.compat.natten.v0_21 import *  # noqa: F403
from visionattn.compat.natten.v0_21 import __version__ as __version__

NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D = (
    _modules.neighborhood_module(rank, _modules.natten_any, __name__) for rank in (1, 2, 3)
)
