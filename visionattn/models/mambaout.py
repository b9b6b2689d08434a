"""MambaOut, which timm has: here is what timm lacks.

The network, its names and its pretrained weights are timm's, and `timm.create_model("mambaout_tiny")` is theirs alone.
This file adds the released files through `visionattn.convert_checkpoint`, the output norms of dense prediction in
`visionattn.downstream.FeaturePyramid`, folding by `visionattn.fuse`, short aliases and a variant for tests.

Source: MambaOut: Do We Really Need Mamba for Vision? (Yu and Wang, CVPR 2025, arXiv:2405.07992).
"""

from functools import partial
from typing import Any, Dict

from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models import mambaout as upstream
from torch import Tensor, nn

from visionattn.models import _checkpoint
from visionattn.models._family import OutputNorms
from visionattn.models._variants import imagenet_cfg, register_variants
from visionattn.utils.fuse import fold, fold_layer_scale

__all__ = ["checkpoint_filter_fn"]

# The paper's detectors and segmenters have a norm on every stage's output; its epsilon is that of the network's norms.
OUTPUT_NORMS = OutputNorms(eps=1e-6)
_DENSE_NORMS = r"^norm\d+\."


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict with timm's names; timm's come back unchanged."""
    weights = _checkpoint.rename(_checkpoint.unwrap(state_dict), (), drop=_DENSE_NORMS)
    return upstream.checkpoint_filter_fn(weights, model)


@fold.register
def _(block: upstream.GatedConvBlock) -> nn.Module:
    block.ls = fold_layer_scale(block.fc2, block.ls)
    return block


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    crop_pct=1.0,
    first_conv="stem.conv1",
    license="apache-2.0",
    origin_url="https://github.com/yuweihao/MambaOut",
    paper_ids="arXiv:2405.07992",
    paper_name="MambaOut",
)
default_cfgs = generate_default_cfgs({"mambaout_test": _cfg()})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        upstream.MambaOut,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


def _create_upstream(alias: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return getattr(upstream, _ALIASES[alias])(pretrained=pretrained, **kwargs)


PUBLISHED_TOP1 = {
    "mambaout_femto": 78.9,
    "mambaout_kobe": 80.0,
    "mambaout_tiny": 82.7,
    "mambaout_small": 84.1,
    "mambaout_base": 84.2,
}
VARIANTS = {"mambaout_test": dict(depths=(1, 1, 2, 1), dims=(16, 32, 48, 64))}
_ALIASES = {"mambaout_t": "mambaout_tiny", "mambaout_s": "mambaout_small", "mambaout_b": "mambaout_base"}
register_variants(__name__, _create, VARIANTS)
register_variants(__name__, _create_upstream, {alias: {} for alias in _ALIASES})
