"""`natten.functional` as of NATTEN 0.14 to 0.17.

`na1d`, `na2d`, `na3d` take positional arguments in the order of 0.17 here (dilation, is_causal, rpb, ...) and that of
0.21 (stride, dilation, is_causal, ...) in `visionattn.compat.natten`; by keyword, both take those of either.
"""

from visionattn.compat.natten import _neighborhood, _unfused
from visionattn.compat.natten._attention import attention, merge_attentions
from visionattn.ops import na1d_av, na1d_qk, na2d_av, na2d_qk, na3d_av, na3d_qk

__all__ = [
    "attention",
    "merge_attentions",
    "na1d",
    "na1d_av",
    "na1d_qk",
    "na2d",
    "na2d_av",
    "na2d_qk",
    "na3d",
    "na3d_av",
    "na3d_qk",
    "natten1dav",
    "natten1dqk",
    "natten1dqkrpb",
    "natten2dav",
    "natten2dqk",
    "natten2dqkrpb",
    "natten3dav",
    "natten3dqk",
    "natten3dqkrpb",
]

na1d, na2d, na3d = (_neighborhood.legacy(rank, __name__) for rank in (1, 2, 3))
natten1dqkrpb, natten2dqkrpb, natten3dqkrpb = (_unfused.qkrpb(rank, __name__) for rank in (1, 2, 3))
natten1dqk, natten2dqk, natten3dqk = (_unfused.qk(rank, __name__) for rank in (1, 2, 3))
natten1dav, natten2dav, natten3dav = (_unfused.av(rank, __name__) for rank in (1, 2, 3))
