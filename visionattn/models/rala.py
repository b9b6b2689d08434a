"""RAVLT: a pyramid with rank-augmented linear attention (RALA) where maps are large, softmax where they are small.

Source: Breaking the Low-Rank Dilemma of Linear Attention (Fan et al., CVPR 2025, arXiv:2411.07635).
"""

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs

from visionattn.models import _gated_pyramid
from visionattn.models._gated_pyramid import OUTPUT_NORMS, GatedPyramid, checkpoint_filter_fn
from visionattn.models._variants import imagenet_cfg, register_variants

__all__ = ["OUTPUT_NORMS", "PUBLISHED_TOP1", "RAVLT", "VARIANTS", "checkpoint_filter_fn"]


class RAVLT(GatedPyramid):
    """Pyramid of `visionattn.ops.rank_augmented_linear_attention`; arguments and shapes as `GatedPyramid` has them."""

    linear_attention = "rank_augmented"


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    first_conv="stem.0.conv",
    license="mit",
    origin_url="https://huggingface.co/aldjalkdf/RAVLT",
    paper_ids="arXiv:2411.07635",
    paper_name="Breaking the Low-Rank Dilemma of Linear Attention",
)

VARIANTS = {f"ravlt_{size}": arguments for size, arguments in _gated_pyramid.VARIANTS.items()}
PUBLISHED_TOP1 = {"ravlt_t": 82.8, "ravlt_s": 84.4, "ravlt_b": 85.5, "ravlt_l": 85.8}
default_cfgs = generate_default_cfgs(
    {**{f"{variant}.in1k": _cfg() for variant in PUBLISHED_TOP1}, "ravlt_test": _cfg()}
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> RAVLT:
    return build_model_with_cfg(
        RAVLT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


_aliases = {f"ravlt_{size}": (f"rala_{size}",) for size in _gated_pyramid.VARIANTS}
register_variants(__name__, _create, VARIANTS, _aliases)
