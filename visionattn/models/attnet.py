"""AttNet: a four-stage pyramid of attentive convolution and gated convolutional MLPs.

Source: Attentive Convolution: Unifying the Expressivity of Self-Attention with Convolutional Efficiency (Yu et al.,
2025, arXiv:2510.20092).
"""

import logging
from collections import OrderedDict
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import torch
from timm.layers import (
    DropPath,
    LayerNorm2d,
    LayerScale2d,
    NormMlpClassifierHead,
    RmsNorm2d,
    calculate_drop_path_rates,
    get_act_layer,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

from visionattn.checkpoint import load_checkpoint_file
from visionattn.layers.attentive_conv import AttentiveConv2d
from visionattn.layers.conv_norm import ConvNorm
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone, Stage, check_per_stage
from visionattn.models._family import OutputNorms
from visionattn.models._variants import imagenet_cfg, register_variants
from visionattn.utils.fuse import fold_layer_scale

__all__ = ["AttNet", "checkpoint_filter_fn", "infer_arguments"]

_logger = logging.getLogger(__name__)

LayerType = Union[str, Callable[..., nn.Module]]


class VarianceNorm2d(RmsNorm2d):
    """What timm's `RmsNorm2d` was before its version 1.0.13: divides by the unbiased standard deviation, uncentred."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.var(1, keepdim=True) + self.eps) * self.weight[:, None, None]


GLU_NORMS = {"rms": RmsNorm2d, "variance": VarianceNorm2d}


class ConvGlu(nn.Module):
    """`fc2(norm(act(dwconv(a)) * v))` with `a, v` the halves of `fc1(x)`: `[B, dim, H, W]` to the same.

    Args:
        dim: Channels.
        hidden: Channels of a half.
        glu_norm: Norm of the product: a key of `GLU_NORMS`, or None.
        act_layer: Activation of the gate.
        drop: Dropout before and after `fc2`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        glu_norm: Optional[str] = None,
        act_layer: Callable[..., nn.Module] = nn.GELU,
        drop: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.fc1 = nn.Conv2d(dim, 2 * hidden, 1, **dd)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.act = act_layer()
        self.norm = GLU_NORMS[glu_norm](hidden, eps=1e-6, **dd) if glu_norm else nn.Identity()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Conv2d(hidden, dim, 1, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=1)
        x = self.norm(self.act(self.dwconv(gate)) * value)
        return self.drop2(self.fc2(self.drop1(x)))


class Block(nn.Module):
    """Attentive convolution, then the gated MLP, each after a layer norm over channels and with a layer scale."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        kernel_size: int = 3,
        glu_norm: Optional[str] = None,
        ls_init_value: Optional[float] = None,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Callable[..., nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm1 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.attn = AttentiveConv2d(dim, kernel_size, **dd)
        self.ls1 = nn.Identity() if ls_init_value is None else LayerScale2d(dim, ls_init_value, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.mlp = ConvGlu(dim, hidden, glu_norm, act_layer, proj_drop, **dd)
        self.ls2 = nn.Identity() if ls_init_value is None else LayerScale2d(dim, ls_init_value, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def fuse(self) -> nn.Module:
        """Folds the layer scales into the projections before them; see `visionattn.fuse`."""
        self.ls1 = fold_layer_scale(self.attn.proj, self.ls1)
        self.ls2 = fold_layer_scale(self.mlp.fc2, self.ls2)
        return self


class AttNet(Backbone):
    """Pyramid of attentive convolution.

    Takes `[B, in_chans, H, W]` of any size. Stage `i` gives `[B, dims[i], ~H / 2**(i+2), ~W / 2**(i+2)]`, not normed.
    The convolution kernels are made of pooled bands of the whole map: what an image is padded with changes them.

    Args:
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax" or "" for none.
        dims: Channels per stage.
        depths: Blocks per stage.
        exp_rates: Width of the MLPs over the channels, per stage; a half of the gated MLP has two thirds of it.
        kernel_size: Side of the attentive convolutions' kernels, odd.
        glu_norm: Norm within the MLPs: False or None; True or "rms", by the root mean square over channels; "variance",
            by the unbiased standard deviation. What is called RMS norm was the latter in timm before 1.0.13; the
            released code does not say which timm its larger variants were trained with, and no file can tell.
        use_layer_scale: Whether blocks have layer scales.
        ls_init_value: Initial layer scale.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout within the MLPs.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        act_layer: Activation of the stem and of the MLPs' gates.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        TypeError: an argument of the wrong type, or an unknown one.
        ValueError: an argument out of range, or lengths that do not agree.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 288, 512),
        depths: Sequence[int] = (3, 3, 16, 3),
        exp_rates: Sequence[float] = (8, 8, 4, 4),
        kernel_size: int = 3,
        glu_norm: Union[bool, str, None] = None,
        use_layer_scale: bool = False,
        ls_init_value: float = 1e-6,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = "gelu",
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        check_per_stage(depths, dims=dims, exp_rates=exp_rates)
        glu_norm = "rms" if glu_norm is True else glu_norm or None
        if glu_norm is not None and glu_norm not in GLU_NORMS:
            raise ValueError(f"glu_norm must be a bool or one of {', '.join(map(repr, GLU_NORMS))}, got {glu_norm!r}")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NCHW"
        act_layer = get_act_layer(act_layer)
        block = partial(
            Block,
            kernel_size=kernel_size,
            glu_norm=glu_norm,
            ls_init_value=ls_init_value if use_layer_scale else None,
            proj_drop=proj_drop_rate,
            act_layer=act_layer,
            **dd,
        )
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=ConvNorm(in_chans, dims[0] // 2, stride=2, **dd),
                act=act_layer(),
                conv2=ConvNorm(dims[0] // 2, dims[0], stride=2, **dd),
            )
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        self.feature_info = []
        for i, dim in enumerate(dims):
            reduce = ConvNorm(dims[i - 1], dim, stride=2, **dd) if i else nn.Identity()
            hidden = int(2 * int(dim * exp_rates[i]) / 3)
            stages.append(Stage(reduce, [block(dim, hidden, drop_path=rate) for rate in rates[i]]))
            self.feature_info.append(dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}"))
        self.stages = nn.Sequential(*stages)
        self.num_features = dims[-1]
        self.norm = nn.Identity()
        self.head = NormMlpClassifierHead(
            self.num_features,
            num_classes,
            pool_type=global_pool,
            drop_rate=drop_rate,
            norm_layer=partial(LayerNorm2d, eps=1e-5),
            **dd,
        )
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drops what the given stages' outputs do not need; returns their indices."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_norm:  # the final norm is in the head, after the pooling
            self.head.reset(0, "", reset_other=True)
        return take

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Convolutions and linears: truncated normal (0.02) without bias; others as they reset themselves."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()


# Norms that dense heads add: none is released, so they are those of other networks without norms between the stages.
OUTPUT_NORMS = OutputNorms(eps=1e-6)

_RENAMES = (
    (r"^downsample_layers\.0\.0\.0\.", r"stem.conv1.conv."),
    (r"^downsample_layers\.0\.0\.1\.", r"stem.conv1.norm."),
    (r"^downsample_layers\.0\.2\.0\.", r"stem.conv2.conv."),
    (r"^downsample_layers\.0\.2\.1\.", r"stem.conv2.norm."),
    (r"^downsample_layers\.(\d+)\.0\.", r"stages.\1.downsample.conv."),
    (r"^downsample_layers\.(\d+)\.1\.", r"stages.\1.downsample.norm."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.token_mixer\.", r".attn."),
    (r"\.channel_mixer\.norm_layer\.", r".mlp.norm."),
    (r"\.channel_mixer\.", r".mlp."),
    (r"\.layer_scale_([12])\.gamma$", r".ls\1.gamma"),
    (r"^(stages\.\d+\.blocks\.\d+)\.norm_([12])\.", r"\1.norm\2."),
    (r"^norm\.", r"head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
_DENSE_NORMS = r"^norm\d+\."


def _our_names(state_dict: Dict[str, Any]) -> Dict[str, Tensor]:
    return _checkpoint.rename(_checkpoint.unwrap(state_dict), _RENAMES, drop=_DENSE_NORMS)


def infer_arguments(state_dict: Dict[str, Any]) -> Dict[str, bool]:
    """`glu_norm` and `use_layer_scale` of the model that a released file is of.

    Variants come with and without the norm of the MLPs and the layer scales; the file decides, not the variant's name.
    """
    names = _our_names(state_dict)
    return dict(
        glu_norm=any(name.endswith(".mlp.norm.weight") for name in names),
        use_layer_scale=any(name.endswith(".ls1.gamma") for name in names),
    )


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict with our names; ours comes back unchanged.

    Raises:
        ValueError: the file has norms in the MLPs or layer scales and the model has not, or the other way round.
    """
    found, expected = infer_arguments(state_dict), infer_arguments(model.state_dict())
    wrong = ", ".join(f"{name}={value}" for name, value in found.items() if value != expected[name])
    if wrong:
        raise ValueError(f"state_dict is of a model with {wrong}: pass that to timm.create_model")
    return _our_names(state_dict)


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    first_conv="stem.conv1.conv",
    license="mit",
    origin_url="https://arxiv.org/abs/2510.20092",
    paper_ids="arXiv:2510.20092",
    paper_name="Attentive Convolution",
)

default_cfgs = generate_default_cfgs(
    {
        **{f"attnet_{size}.in1k": _cfg() for size in ("xxs", "xs", "s", "t1", "t2", "t3", "t4")},
        "attnet_test": _cfg(),
    }
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> AttNet:
    file = (kwargs.get("pretrained_cfg_overlay") or {}).get("file")
    if pretrained and file:
        for name, found in infer_arguments(load_checkpoint_file(file)).items():
            if found != bool(kwargs.get(name)):
                _logger.warning("%s is built with %s=%s: so is the model of %s", variant, name, found, file)
                kwargs[name] = found
    return build_model_with_cfg(
        AttNet,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


_t = dict(glu_norm="rms", use_layer_scale=True)
VARIANTS = {
    "attnet_xxs": dict(dims=(32, 64, 128, 240), depths=(2, 2, 4, 2)),
    "attnet_xs": dict(dims=(40, 80, 160, 320), depths=(2, 2, 7, 2), use_layer_scale=True),
    "attnet_s": dict(dims=(40, 80, 160, 320), depths=(2, 3, 10, 3)),
    "attnet_t1": dict(_t, dims=(48, 96, 224, 384), depths=(2, 3, 12, 3)),
    "attnet_t2": dict(_t, dims=(64, 128, 288, 512), depths=(3, 3, 16, 3)),
    "attnet_t3": dict(_t, dims=(72, 144, 320, 576), depths=(4, 4, 26, 4)),
    "attnet_t4": dict(_t, dims=(96, 192, 384, 768), depths=(5, 5, 28, 5)),
    "attnet_test": dict(_t, dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), exp_rates=(4, 4, 3, 3), ls_init_value=0.1),
}
PUBLISHED_TOP1 = {"attnet_t2": 84.4}
register_variants(__name__, _create, VARIANTS)
