"""NAT, DiNAT and DiNAT_s: four-stage pyramids of neighborhood attention.

Sources: Neighborhood Attention Transformer (Hassani et al., CVPR 2023, arXiv:2204.07143) and Dilated Neighborhood
Attention Transformer (Hassani and Shi, 2022, arXiv:2209.15001).
"""

from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Set, Union

import torch
from timm.layers import (
    ClassifierHead,
    PatchEmbed,
    calculate_drop_path_rates,
    get_act_layer,
    get_norm_layer,
)
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from visionattn.layers import LayerNorm, NeighborhoodAttention2D
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone, Stage, check_per_stage
from visionattn.models._block import Block
from visionattn.models._dilation import Dilations, resolve_dilations
from visionattn.models._family import OutputNorms
from visionattn.models._variants import imagenet_cfg, register_variants

__all__ = ["NAT", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]


class ConvStem(nn.Module):
    """Two overlapping stride-2 convolutions with nothing between them: `[B, 3, H, W]` to `[B, H/4, W/4, C]`."""

    def __init__(self, in_chans: int, dim: int, norm_layer: Callable[..., nn.Module], device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd),
        )
        self.norm = norm_layer(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ConvDownsample(nn.Module):
    """Overlapping stride-2 convolution, then norm: `[B, H, W, C]` to `[B, ceil(H/2), ceil(W/2), C_out]`."""

    def __init__(self, dim: int, out_dim: int, norm_layer: Callable[..., nn.Module], device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.reduction = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, bias=False, **dd)
        self.norm = norm_layer(out_dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class NAT(Backbone):
    """Neighborhood attention pyramid; NAT, DiNAT and DiNAT_s are its variants.

    Takes `[B, in_chans, H, W]` of any size. Stage `i` gives `[B, ~H / 2**(i+2), ~W / 2**(i+2), embed_dim * 2**i]`;
    features are channels-last (`output_fmt = "NHWC"`).

    Args:
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax", "catavgmax" or "" for none.
        depths: Blocks per stage.
        embed_dim: Channels of the first stage; each next one has twice as many.
        num_heads: Attention heads per stage.
        kernel_size: Attention window on both axes, odd.
        dilations: None, a preset's name, "max", or one list per stage: see `visionattn.models._dilation`.
        stem_type: "conv": overlapping convolutional stem and downsampling (NAT, DiNAT); "patch": 4x4 patches and patch
            merging (DiNAT_s).
        mlp_ratio: Hidden width of the MLPs over the channels.
        qkv_bias: Whether the query, key and value projections have a bias.
        rel_pos_bias: Whether attention adds a learned relative positional bias.
        padding: What attention does where a window exceeds its map: "zero" pads the map like the released models,
            "masked" cuts the window, "error" raises ValueError.
        ls_init_value: Initial layer scale, None for no layer scale.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the stem.
        proj_drop_rate: Dropout after the attention and MLP projections.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        act_layer: Activation of the MLPs.
        norm_layer: Channels-last norm.
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
        depths: Sequence[int] = (3, 4, 6, 5),
        embed_dim: int = 64,
        num_heads: Sequence[int] = (2, 4, 8, 16),
        kernel_size: int = 7,
        dilations: Dilations = None,
        stem_type: str = "conv",
        mlp_ratio: float = 3.0,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        padding: str = "zero",
        ls_init_value: Optional[float] = None,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = "gelu",
        norm_layer: LayerType = LayerNorm,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        if stem_type not in ("conv", "patch"):
            raise ValueError(f"stem_type must be 'conv' or 'patch', got {stem_type!r}")
        check_per_stage(depths, num_heads=num_heads)
        norm_layer, act_layer = get_norm_layer(norm_layer), get_act_layer(act_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NHWC"

        dims = [embed_dim * 2**i for i in range(len(depths))]
        if stem_type == "conv":
            self.stem = ConvStem(in_chans, embed_dim, norm_layer, **dd)
            downsample = ConvDownsample
        else:
            self.stem = PatchEmbed(
                None, 4, in_chans, embed_dim, norm_layer=norm_layer, output_fmt="NHWC", dynamic_img_pad=True, **dd
            )
            downsample = PatchMerging
        self.pos_drop = nn.Dropout(pos_drop_rate)
        attention = partial(
            NeighborhoodAttention2D,
            kernel_size=kernel_size,
            rel_pos_bias=rel_pos_bias,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop_rate,
            proj_drop=proj_drop_rate,
            padding=padding,
            **dd,
        )
        block = partial(
            Block,
            mlp_ratio=mlp_ratio,
            ls_init_value=ls_init_value,
            proj_drop=proj_drop_rate,
            act_layer=act_layer,
            norm_layer=norm_layer,
            **dd,
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        gaps = resolve_dilations(dilations, depths)
        stages = []
        self.feature_info = []
        for i, dim in enumerate(dims):
            reduce = downsample(dims[i - 1], dim, norm_layer=norm_layer, **dd) if i else nn.Identity()
            blocks = [
                block(dim, attention(dim, num_heads[i], dilation=gap), drop_path=rate)
                for gap, rate in zip(gaps[i], rates[i])
            ]
            stages.append(Stage(reduce, blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}"))
        self.stages = nn.Sequential(*stages)
        self.num_features = dims[-1]
        self.norm = norm_layer(self.num_features, **dd)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt=self.output_fmt, **dd
        )
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters besides biases and norms that the papers mean to keep from weight decay."""
        return {name for name, _ in self.named_parameters() if name.endswith(".rpb")}

    def _embed(self, x: Tensor) -> Tensor:
        return self.pos_drop(self._stem(x))


# Names of the papers' code, then of its Hugging Face port, to ours. A stage's downsampling moves to the next stage.
_RENAMES = (
    (r"^(?:nat|dinat)\.", r""),
    (r"^patch_embed\.", r"stem."),
    (r"^(?:levels|layers)\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^(?:encoder\.levels|levels|layers)\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"^(?:head|classifier)\.(weight|bias)$", r"head.fc.\1"),
    (r"^embeddings\.patch_embeddings\.projection\.", r"stem.proj."),
    (r"^embeddings\.norm\.", r"stem.norm."),
    (r"^encoder\.levels\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.layernorm_before\.", r".norm1."),
    (r"\.layernorm_after\.", r".norm2."),
    (r"\.attention\.self\.(rpb|qkv)", r".attn.\1"),
    (r"\.attention\.output\.dense\.", r".attn.proj."),
    (r"\.intermediate\.dense\.", r".mlp.fc1."),
    (r"\.output\.dense\.", r".mlp.fc2."),
    (r"^layernorm\.", r"norm."),
)
OUTPUT_NORMS = OutputNorms(eps=1e-5)
_DENSE_NORMS = rf"{OUTPUT_NORMS.names}|^hidden_states_norms\."  # theirs, and of the Hugging Face port


def checkpoint_filter_fn(state_dict: Dict[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict (the papers' code or its Hugging Face port) with our names; ours comes back unchanged.

    Bias tables of another kernel size are resized. Output norms of dense-prediction models (`norm0` ...) are dropped.
    """
    state_dict = _checkpoint.join_qkv(_checkpoint.unwrap(state_dict))
    for name in [name for name in state_dict if name.endswith(".layer_scale_parameters")]:
        prefix = name.removesuffix("layer_scale_parameters")
        state_dict[f"{prefix}gamma1"], state_dict[f"{prefix}gamma2"] = state_dict.pop(name)
    return _checkpoint.resize_bias_tables(_checkpoint.rename(state_dict, _RENAMES, drop=_DENSE_NORMS), model)


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    first_conv="stem.proj.0",
    license="mit",
    origin_url="https://github.com/SHI-Labs/Neighborhood-Attention-Transformer",
)
_nat = partial(_cfg, paper_ids="arXiv:2204.07143", paper_name="Neighborhood Attention Transformer")
_dinat = partial(_cfg, paper_ids="arXiv:2209.15001", paper_name="Dilated Neighborhood Attention Transformer")
_dinat_s = partial(_dinat, first_conv="stem.proj")
_at_384 = dict(size=384, crop_pct=1.0)

default_cfgs = generate_default_cfgs(
    {
        "nat_mini.in1k": _nat(),
        "nat_tiny.in1k": _nat(),
        "nat_small.in1k": _nat(),
        "nat_base.in1k": _nat(),
        "dinat_mini.in1k": _dinat(),
        "dinat_tiny.in1k": _dinat(),
        "dinat_small.in1k": _dinat(),
        "dinat_base.in1k": _dinat(),
        "dinat_large.in22k_ft_in1k": _dinat(),
        "dinat_large_384.in22k_ft_in1k": _dinat(**_at_384),
        "dinat_large_384_11x11.in22k_ft_in1k": _dinat(**_at_384),
        "dinat_large_21k.in22k": _dinat(num_classes=21841),
        "dinat_large_21k_11x11.in22k": _dinat(num_classes=21841, **_at_384),
        "dinat_s_tiny.in1k": _dinat_s(),
        "dinat_s_small.in1k": _dinat_s(),
        "dinat_s_base.in1k": _dinat_s(),
        "dinat_s_large.in22k_ft_in1k": _dinat_s(),
        "dinat_s_large_384.in22k_ft_in1k": _dinat_s(**_at_384),
        "dinat_s_large_21k.in22k": _dinat_s(num_classes=21841),
        "nat_test": _nat(),
        "dinat_test": _dinat(),
        "dinat_s_test": _dinat_s(),
    }
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> NAT:
    return build_model_with_cfg(
        NAT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


_mini = dict(depths=(3, 4, 6, 5), embed_dim=64, num_heads=(2, 4, 8, 16), mlp_ratio=3.0)
_tiny = dict(_mini, depths=(3, 4, 18, 5))
_small = dict(depths=(3, 4, 18, 5), embed_dim=96, num_heads=(3, 6, 12, 24), mlp_ratio=2.0)
_base = dict(_small, embed_dim=128, num_heads=(4, 8, 16, 32), ls_init_value=1e-5)
_large = dict(_small, embed_dim=192, num_heads=(6, 12, 24, 48))
_s_tiny = dict(stem_type="patch", depths=(2, 2, 6, 2), embed_dim=96, num_heads=(3, 6, 12, 24), mlp_ratio=4.0)
_s_small = dict(_s_tiny, depths=(2, 2, 18, 2))
_s_base = dict(_s_small, embed_dim=128, num_heads=(4, 8, 16, 32))
_s_large = dict(_s_small, embed_dim=192, num_heads=(6, 12, 24, 48))
_test = dict(depths=(2, 2, 2, 1), embed_dim=16, num_heads=(1, 2, 4, 8), kernel_size=3, mlp_ratio=2.0)
_test_dilations = ((1, 2), (1, 2), (1, 1), (1,))  # fit maps of 64 pixels

VARIANTS = {
    "nat_mini": _mini,
    "nat_tiny": _tiny,
    "nat_small": dict(_small, ls_init_value=1e-5),
    "nat_base": _base,
    "dinat_mini": dict(_mini, dilations="224"),
    "dinat_tiny": dict(_tiny, dilations="224"),
    "dinat_small": dict(_small, dilations="224"),
    "dinat_base": dict(_base, dilations="224"),
    "dinat_large": dict(_large, dilations="224"),
    "dinat_large_384": dict(_large, dilations="384"),
    "dinat_large_384_11x11": dict(_large, dilations="224", kernel_size=11),
    "dinat_large_21k": dict(_large, dilations="224"),
    "dinat_large_21k_11x11": dict(_large, dilations="224", kernel_size=11),
    "dinat_s_tiny": dict(_s_tiny, dilations="224"),
    "dinat_s_small": dict(_s_small, dilations="224"),
    "dinat_s_base": dict(_s_base, dilations="224"),
    "dinat_s_large": dict(_s_large, dilations="224"),
    "dinat_s_large_384": dict(_s_large, dilations="384"),
    "dinat_s_large_21k": dict(_s_large, dilations="224"),
    "nat_test": _test,
    "dinat_test": dict(_test, dilations=_test_dilations),
    "dinat_s_test": dict(_test, stem_type="patch", dilations=_test_dilations),
}
PUBLISHED_TOP1 = {  # of the released weights
    "nat_mini": 81.8,
    "nat_tiny": 83.2,
    "nat_small": 83.7,
    "nat_base": 84.3,
    "dinat_mini": 81.8,
    "dinat_tiny": 82.7,
    "dinat_small": 83.8,
    "dinat_base": 84.4,
    "dinat_large": 86.6,
    "dinat_large_384": 87.4,
    "dinat_large_384_11x11": 87.5,
    "dinat_s_tiny": 81.8,
    "dinat_s_small": 83.5,
    "dinat_s_base": 83.8,
    "dinat_s_large": 86.5,
    "dinat_s_large_384": 87.4,
}
register_variants(__name__, _create, VARIANTS)
