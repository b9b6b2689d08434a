"""VAN: a four-stage pyramid of large kernel attention.

Source: Visual Attention Network (Guo et al., Computational Visual Media 2023, arXiv:2202.09741).
"""

import math
from functools import partial
from typing import Any, Callable, Dict, Sequence, Union

from timm.layers import (
    ClassifierHead,
    DropPath,
    LayerNorm2d,
    LayerScale2d,
    calculate_drop_path_rates,
    get_act_layer,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

from visionattn.layers.conv_norm import ConvNorm
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone, Stage, check_per_stage
from visionattn.models._variants import imagenet_cfg, register_variants
from visionattn.utils.fuse import batch_norm_affine, scale_inputs, scale_outputs

__all__ = ["VAN", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]


class LargeKernelAttention(nn.Module):
    """`x` times a map made of `x`: depthwise, dilated depthwise and 1x1 convolution in place of one large kernel.

    Nothing stands between the convolutions, and the map is not normalised (section 3.1 of the paper). The product is
    quadratic in the activations: bfloat16 holds it, float16 overflows first here.

    Args:
        dim: Channels.
        kernel_size: Side of the kernel that the three convolutions stand for.
        dilation: Of the second convolution; the first has side `2 * dilation - 1`, the second `kernel_size / dilation`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(self, dim: int, kernel_size: int = 21, dilation: int = 3, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        if dilation < 1 or kernel_size < dilation:
            raise ValueError(f"kernel_size must be at least dilation, and that 1, got {kernel_size} and {dilation}")
        local, wide = 2 * dilation - 1, math.ceil(kernel_size / dilation)
        if not wide % 2:
            raise ValueError(f"kernel_size / dilation, rounded up, must be odd, got {kernel_size} / {dilation}")
        self.dw = nn.Conv2d(dim, dim, local, padding=local // 2, groups=dim, **dd)
        self.dw_dilated = nn.Conv2d(dim, dim, wide, padding=wide // 2 * dilation, groups=dim, dilation=dilation, **dd)
        self.pw = nn.Conv2d(dim, dim, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pw(self.dw_dilated(self.dw(x)))


class Attention(nn.Module):
    """Large kernel attention between two 1x1 convolutions, without the shortcut: that is the block's."""

    def __init__(
        self, dim: int, kernel_size: int, dilation: int, act_layer: Callable[..., nn.Module], device=None, dtype=None
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.proj1 = nn.Conv2d(dim, dim, 1, **dd)
        self.act = act_layer()
        self.lka = LargeKernelAttention(dim, kernel_size, dilation, **dd)
        self.proj2 = nn.Conv2d(dim, dim, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj2(self.lka(self.act(self.proj1(x))))


class ConvMlp(nn.Module):
    """1x1 convolution, 3x3 depthwise convolution, activation, 1x1 convolution: `[B, dim, H, W]` to the same."""

    def __init__(
        self, dim: int, hidden: int, act_layer: Callable[..., nn.Module], drop: float = 0.0, device=None, dtype=None
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1, **dd)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Conv2d(hidden, dim, 1, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.dwconv(self.fc1(x))))))


class Block(nn.Module):
    """Attention and MLP, each after a batch norm; attention's own shortcut starts at the normed map."""

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        kernel_size: int = 21,
        dilation: int = 3,
        ls_init_value: float = 1e-2,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Callable[..., nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.attn = Attention(dim, kernel_size, dilation, act_layer, **dd)
        self.ls1 = LayerScale2d(dim, ls_init_value, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), act_layer, proj_drop, **dd)
        self.ls2 = LayerScale2d(dim, ls_init_value, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.drop_path1(self.ls1(self.attn(y) + y))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def fuse(self) -> nn.Module:
        """The same function in eval mode without norms and layer scales; see `visionattn.fuse`."""
        return FusedBlock(self)


class FusedBlock(nn.Module):
    """A block in eval mode, its norms and layer scales folded into the 1x1 convolutions.

    With the first norm as `s x + t` and the layer scale `g`: `x + g (attn(s x + t) + s x + t)` is
    `(1 + g s) x + attn'(x)`, where `attn'` has `s` and `t` in its first convolution, `g` and `g t` in its last.
    """

    def __init__(self, block: Block):
        super().__init__()
        self.attn, self.mlp = block.attn, block.mlp
        s, t = batch_norm_affine(block.norm1)
        g = block.ls1.gamma.detach()
        scale_inputs(self.attn.proj1, s, t)
        scale_outputs(self.attn.proj2, g)
        self.attn.proj2.bias.data += g * t
        self.register_buffer("scale", (1 + g * s).view(1, -1, 1, 1))
        scale_inputs(self.mlp.fc1, *batch_norm_affine(block.norm2))
        scale_outputs(self.mlp.fc2, block.ls2.gamma.detach())

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale + self.attn(x)
        return x + self.mlp(x)


class VAN(Backbone):
    """Pyramid of large kernel attention.

    Takes `[B, in_chans, H, W]` of any size. Stage `i` gives `[B, embed_dims[i], ~H / 2**(i+2), ~W / 2**(i+2)]`, after
    its layer norm, which the next stage reads too.

    Args:
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax", "catavgmax" or "" for none.
        embed_dims: Channels per stage.
        depths: Blocks per stage.
        mlp_ratios: Hidden width of the MLPs over the channels, per stage.
        kernel_size: Side of the kernel that attention stands for.
        dilation: Dilation of attention's wide convolution.
        ls_init_value: Initial layer scale.
        norm_eps: Epsilon of the norms that end the stages: 1e-6 in the released classification models, 1e-5 in the
            released backbones for dense prediction.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout within the MLPs.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        act_layer: Activation.
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
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 3, 12, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        kernel_size: int = 21,
        dilation: int = 3,
        ls_init_value: float = 1e-2,
        norm_eps: float = 1e-6,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = "gelu",
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        check_per_stage(depths, embed_dims=embed_dims, mlp_ratios=mlp_ratios)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NCHW"
        block = partial(
            Block,
            kernel_size=kernel_size,
            dilation=dilation,
            ls_init_value=ls_init_value,
            proj_drop=proj_drop_rate,
            act_layer=get_act_layer(act_layer),
            **dd,
        )
        self.stem = ConvNorm(in_chans, embed_dims[0], 7, stride=4, bias=True, **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        self.feature_info = []
        for i, dim in enumerate(embed_dims):
            reduce = ConvNorm(embed_dims[i - 1], dim, 3, stride=2, bias=True, **dd) if i else nn.Identity()
            blocks = [block(dim, mlp_ratios[i], drop_path=rate) for rate in rates[i]]
            stages.append(Stage(reduce, blocks, LayerNorm2d(dim, eps=norm_eps, **dd)))
            self.feature_info.append(dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}"))
        self.stages = nn.Sequential(*stages)
        self.num_features = embed_dims[-1]
        self.norm = nn.Identity()
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Convolutions: normal by fan-out; linears: truncated normal; no biases; others as they reset themselves."""
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()


# Names of the paper's code, of mmpretrain's conversions and of the Hugging Face port, to ours.
_RENAMES = (
    (r"^patch_embed1\.", r"stem."),
    (r"^patch_embed(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
    (r"^blocks?(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
    (r"^norm(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"^van\.encoder\.stages\.0\.embeddings\.", r"stem."),
    (r"^van\.encoder\.stages\.(\d+)\.embeddings\.", r"stages.\1.downsample."),
    (r"^van\.encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^van\.encoder\.stages\.(\d+)\.normalization\.", r"stages.\1.norm."),
    (r"\.pre_normomalization\.", r".norm1."),  # so it is spelt there
    (r"\.post_normalization\.", r".norm2."),
    (r"\.pre_projection\.conv\.", r".proj_1."),
    (r"\.post_projection\.", r".proj_2."),
    (r"\.attention\.attention_layer\.attention\.", r".attn.spatial_gating_unit."),
    (r"\.attention\.", r".attn."),
    (r"\.attention_scaling\.weight$", r".layer_scale_1"),
    (r"\.mlp_scaling\.weight$", r".layer_scale_2"),
    (r"^(stem|stages\.\d+\.downsample)\.(?:proj|projection|convolution)\.", r"\1.conv."),
    (r"^(stem|stages\.\d+\.downsample)\.normalization\.", r"\1.norm."),
    (r"\.layer_scale_([12])$", r".ls\1.gamma"),
    (r"\.attn\.proj_([12])\.", r".attn.proj\1."),
    (r"\.spatial_gating_unit\.(?:conv0|DW_conv|depth_wise)\.", r".lka.dw."),
    (r"\.spatial_gating_unit\.(?:conv_spatial|DW_D_conv|depth_wise_dilated)\.", r".lka.dw_dilated."),
    (r"\.spatial_gating_unit\.(?:conv1|point_wise)\.", r".lka.pw."),
    (r"\.mlp\.(?:dwconv\.dwconv|depth_wise)\.", r".mlp.dwconv."),
    (r"\.mlp\.in_dense\.", r".mlp.fc1."),
    (r"\.mlp\.out_dense\.", r".mlp.fc2."),
    (r"^(?:head|classifier)\.(weight|bias)$", r"head.fc.\1"),
)
_UNUSED = r"^van\.layernorm\."  # the port holds it, and its forward pass never reads it


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict (the paper's code, mmpretrain, the Hugging Face port) with our names; ours is unchanged."""
    return _checkpoint.rename(_checkpoint.unwrap(state_dict), _RENAMES, drop=_UNUSED)


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    first_conv="stem.conv",
    license="apache-2.0",
    origin_url="https://github.com/Visual-Attention-Network/VAN-Classification",
    paper_ids="arXiv:2202.09741",
    paper_name="Visual Attention Network",
)
_half = (0.5, 0.5, 0.5)
_in1k = partial(_cfg, mean=_half, std=_half, crop_pct=0.9)
_in22k = partial(_cfg, num_classes=21841)
_at_384 = partial(_cfg, size=384, crop_pct=1.0, crop_mode="squash")

default_cfgs = generate_default_cfgs(
    {
        **{f"van_b{i}.in1k": _in1k() for i in range(4)},
        **{f"van_b{i}.in22k_ft_in1k": _cfg() for i in (4, 5, 6)},
        **{f"van_b{i}.in22k_ft_in1k_384": _at_384() for i in (4, 5, 6)},
        **{f"van_b{i}.in22k": _in22k() for i in (4, 5, 6)},
        "van_test": _in1k(),
    }
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> VAN:
    return build_model_with_cfg(
        VAN,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


_wide = (64, 128, 320, 512)
VARIANTS = {
    "van_b0": dict(embed_dims=(32, 64, 160, 256), depths=(3, 3, 5, 2)),
    "van_b1": dict(embed_dims=_wide, depths=(2, 2, 4, 2)),
    "van_b2": dict(embed_dims=_wide, depths=(3, 3, 12, 3)),
    "van_b3": dict(embed_dims=_wide, depths=(3, 5, 27, 3)),
    "van_b4": dict(embed_dims=_wide, depths=(3, 6, 40, 3)),
    "van_b5": dict(embed_dims=(96, 192, 480, 768), depths=(3, 3, 24, 3)),
    "van_b6": dict(embed_dims=(96, 192, 384, 768), depths=(6, 6, 90, 6)),
    "van_test": dict(embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 2, 2)),
}
PUBLISHED_TOP1 = {  # from b4 on with ImageNet-22k before
    "van_b0": 75.4,
    "van_b1": 81.1,
    "van_b2": 82.8,
    "van_b3": 83.9,
    "van_b4": 85.7,
    "van_b5": 86.3,
    "van_b6": 86.9,
}
_ALIASES = {"van_b0": ("van_tiny",), "van_b1": ("van_small",), "van_b2": ("van_base",), "van_b3": ("van_large",)}
register_variants(__name__, _create, VARIANTS, _ALIASES)
