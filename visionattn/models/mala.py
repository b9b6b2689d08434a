"""MAViT: a pyramid with magnitude-aware linear attention (MALA) where maps are large, softmax where they are small.

Source: Rectifying Magnitude Neglect in Linear Attention (Fan et al., ICCV 2025, arXiv:2507.00698).
"""

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs

from visionattn.models import _gated_pyramid
from visionattn.models._gated_pyramid import OUTPUT_NORMS, GatedPyramid, checkpoint_filter_fn
from visionattn.models._variants import imagenet_cfg, register_variants

__all__ = ["OUTPUT_NORMS", "PUBLISHED_TOP1", "VARIANTS", "MAViT", "checkpoint_filter_fn"]


class MAViT(GatedPyramid):
    """Pyramid of `visionattn.ops.magnitude_aware_linear_attention`; arguments and shapes as `GatedPyramid` has them."""

    linear_attention = "magnitude_aware"


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    first_conv="stem.0.conv",
    license="mit",
    origin_url="https://huggingface.co/aldjalkdf/MAViT",
    paper_ids="arXiv:2507.00698",
    paper_name="Rectifying Magnitude Neglect in Linear Attention",
)

_widths = {"t": 2048, "s": 2048, "b": 2048, "l": 2560, "test": 128}
VARIANTS = {
    f"mala_{size}": dict(arguments, proj_dim=_widths[size]) for size, arguments in _gated_pyramid.VARIANTS.items()
}
PUBLISHED_TOP1 = {"mala_t": 82.9, "mala_s": 84.7, "mala_b": 85.7, "mala_l": 86.0}
default_cfgs = generate_default_cfgs({**{f"{variant}.in1k": _cfg() for variant in PUBLISHED_TOP1}, "mala_test": _cfg()})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> MAViT:
    return build_model_with_cfg(
        MAViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


_aliases = {f"mala_{size}": (f"mavit_{size}",) for size in _gated_pyramid.VARIANTS}
register_variants(__name__, _create, VARIANTS, _aliases)
