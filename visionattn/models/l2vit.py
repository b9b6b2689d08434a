"""L2ViT: a pyramid whose blocks alternate window attention and global linear attention.

Source: The Linear Attention Resurrection in Vision Transformer (Zheng, 2025, arXiv:2501.16182).
"""

from functools import partial
from typing import Any, Callable, Dict, Sequence, Union

import torch
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    DropPath,
    Mlp,
    calculate_drop_path_rates,
    get_act_layer,
    is_exportable,
    register_notrace_function,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

from visionattn import ops
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone, Stage, check_per_stage
from visionattn.models._family import OutputNorms
from visionattn.models._variants import imagenet_cfg, register_variants
from visionattn.ops import reference

__all__ = ["OUTPUT_NORMS", "PUBLISHED_TOP1", "VARIANTS", "L2ViT", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]


@register_notrace_function
def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pads the last two axes at their ends to multiples of `multiple`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


@register_notrace_function
def attend_in_windows(qkv_windows: Tensor) -> Tensor:
    """Softmax attention in each window: `[windows, tokens, 3, heads, head_dim]` -> `[windows, tokens, channels]`."""
    query, key, value = qkv_windows.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


@register_notrace_function
def attend_globally(qkv: Tensor, scale: Tensor, backend: str) -> Tensor:
    """Clamped linear attention of all tokens: `[B, tokens, 3, heads, head_dim]` -> `[B, tokens, channels]`."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if torch.jit.is_scripting():  # the checks of the operator are beyond TorchScript
        out = reference.clamped_linear_attention(query, key, value, scale, 100.0)
    else:
        out = ops.clamped_linear_attention(query, key, value, scale, 100.0, backend=backend)
    return out.transpose(1, 2).flatten(2)


class DepthwiseConv(nn.Module):
    """Depthwise convolution of a channels-last map `[B, H, W, dim]`, which keeps its size."""

    def __init__(self, dim: int, kernel_size: int, device=None, dtype=None):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class WindowAttention(nn.Module):
    """Softmax attention within windows of `[B, H, W, dim]`, without mask or position bias.

    The map is zero-padded to whole windows before the projection, and padded tokens take part in attention, as in the
    released models.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, proj_drop: float = 0.0, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        side = self.window_size
        x = pad_to_multiple(x.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.reshape(batch, rows, side, columns, side, dim).transpose(2, 3)
        x = x.reshape(batch * rows * columns, side * side, dim)
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.num_heads, dim // self.num_heads)
        x = self.proj(attend_in_windows(qkv)).reshape(batch, rows, columns, side, side, dim).transpose(2, 3)
        x = x.reshape(batch, rows * side, columns * side, dim)
        return self.proj_drop(x[:, :height, :width])


class LinearAttention(nn.Module):
    """Global linear attention of `[B, H, W, dim]` with a learned temperature per head."""

    def __init__(self, dim: int, num_heads: int, proj_drop: float = 0.0, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.num_heads = num_heads
        self.backend = "reference" if is_exportable() else "auto"
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1, **dd))
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the temperatures."""
        nn.init.constant_(self.temperature, (self.proj.in_features // self.num_heads) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, dim // self.num_heads)
        out = attend_globally(qkv, self.temperature.flatten(), self.backend)
        return self.proj_drop(self.proj(out).reshape(batch, height, width, dim))


class LocalConcentration(nn.Module):
    """Two 7x7 depthwise convolutions with activation and batch norm between: focus that linear attention lacks."""

    def __init__(self, dim: int, act_layer: Callable[..., nn.Module], device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim, **dd)
        self.act = act_layer()
        self.bn = nn.BatchNorm2d(dim, **dd)
        self.conv2 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        return self.conv2(self.bn(self.act(self.conv1(x)))).permute(0, 2, 3, 1)


class LocalBlock(nn.Module):
    """Window attention and MLP on `[B, H, W, dim]`, each after a depthwise convolution as position encoding."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        proj_drop: float,
        drop_path: float,
        act_layer: Callable[..., nn.Module],
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.cpe = nn.ModuleList([DepthwiseConv(dim, 3, **dd) for _ in range(2)])
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.attn = WindowAttention(dim, num_heads, window_size, proj_drop, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.cpe[0](x)
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        x = x + self.cpe[1](x)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class GlobalBlock(nn.Module):
    """Linear attention, local concentration and MLP on `[B, H, W, dim]`, after a convolution as position encoding."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        proj_drop: float,
        drop_path: float,
        act_layer: Callable[..., nn.Module],
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.cpe = nn.ModuleList([DepthwiseConv(dim, 3, **dd)])
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.attn = LinearAttention(dim, num_heads, proj_drop, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm3 = nn.LayerNorm(dim, **dd)  # its name in checkpoints; it comes before norm2
        self.local_mp = LocalConcentration(dim, act_layer, **dd)
        self.drop_path3 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.cpe[0](x)
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        x = x + self.drop_path3(self.local_mp(self.norm3(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Stem(nn.Module):
    """Two stride-2 convolutions: `[B, in_chans, H, W]`, padded to multiples of 4, to `[B, H / 4, W / 4, dim]`."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd),
            nn.BatchNorm2d(dim // 2, **dd),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd),
            nn.BatchNorm2d(dim, **dd),
        )
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(pad_to_multiple(x, 4)).permute(0, 2, 3, 1))


class Downsample(nn.Module):
    """Norm, then 2x2 patches: `[B, H, W, dim]`, padded after the norm, to `[B, ceil(H / 2), ceil(W / 2), out_dim]`."""

    def __init__(self, dim: int, out_dim: int, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm = nn.LayerNorm(dim, **dd)
        self.proj = nn.Conv2d(dim, out_dim, 2, stride=2, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(pad_to_multiple(self.norm(x).permute(0, 3, 1, 2), 2)).permute(0, 2, 3, 1)


class L2ViT(Backbone):
    """Pyramid of window attention (even blocks) and global linear attention (odd blocks).

    Takes `[B, in_chans, H, W]` of any size. Stage `i` gives `[B, ~H / 2**(i+2), ~W / 2**(i+2), embed_dims[i]]`;
    features are channels-last (`output_fmt = "NHWC"`).

    Args:
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax", "catavgmax" or "" for none.
        embed_dims: Channels per stage.
        depths: Blocks per stage.
        num_heads: Attention heads per stage.
        window_size: Side of the attention windows; no parameter depends on it.
        mlp_ratio: Hidden width of the MLPs over the channels.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout after the attention and MLP projections.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        act_layer: Activation of MLPs and local concentration.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        TypeError: an unknown argument.
        ValueError: an argument out of range, or lengths that do not agree.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = "gelu",
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        check_per_stage(depths, embed_dims=embed_dims, num_heads=num_heads)
        if any(heads < 1 or dim % heads for dim, heads in zip(embed_dims, num_heads)):
            raise ValueError(f"embed_dims must be multiples of num_heads, got {embed_dims} and {num_heads}")
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {window_size}")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NHWC"
        shared = dict(mlp_ratio=mlp_ratio, proj_drop=proj_drop_rate, act_layer=get_act_layer(act_layer), **dd)
        self.stem = Stem(in_chans, embed_dims[0], **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        self.feature_info = []
        for i, (dim, heads) in enumerate(zip(embed_dims, num_heads)):
            blocks = [
                GlobalBlock(dim, heads, drop_path=rate, **shared)
                if j % 2
                else LocalBlock(dim, heads, window_size, drop_path=rate, **shared)
                for j, rate in enumerate(rates[i])
            ]
            stages.append(Stage(Downsample(embed_dims[i - 1], dim, **dd) if i else nn.Identity(), blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}"))
        self.stages = nn.Sequential(*stages)
        self.num_features = embed_dims[-1]
        self.norm = nn.LayerNorm(self.num_features, **dd)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt=self.output_fmt, **dd
        )
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Truncated normal (0.02) weights, zero biases; norms and temperatures as they reset themselves."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()


# Names of the paper's code to ours.
_RENAMES = (
    (r"^downsample_layers\.0\.(?:proj\.)?", r"stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
OUTPUT_NORMS = OutputNorms(eps=1e-5)


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict with our names; ours comes back unchanged.

    Released files hold averaged weights beside the raw ones, and the published accuracy is that of the raw ones.
    """
    if isinstance(state_dict.get("model"), dict):
        state_dict = state_dict["model"]
    return _checkpoint.rename(_checkpoint.unwrap(state_dict), _RENAMES, drop=OUTPUT_NORMS.names)


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    first_conv="stem.proj.0",
    license="mit",
    origin_url="https://arxiv.org/abs/2501.16182",
    paper_ids="arXiv:2501.16182",
    paper_name="The Linear Attention Resurrection in Vision Transformer",
)

default_cfgs = generate_default_cfgs(
    {
        "l2vit_tiny.in1k": _cfg(),
        "l2vit_small.in1k": _cfg(),
        "l2vit_base.in1k": _cfg(),
        "l2vit_base.in22k_ft_in1k": _cfg(),
        "l2vit_base.in22k": _cfg(num_classes=21841),
        "l2vit_base_384.in22k_ft_in1k": _cfg(size=384, crop_pct=1.0, crop_mode="squash"),
        "l2vit_test": _cfg(),
    }
)
PUBLISHED_TOP1 = {"l2vit_tiny": 83.1, "l2vit_small": 84.1, "l2vit_base": 84.4, "l2vit_base_384": 87.0}

_tiny = dict(embed_dims=(96, 192, 384, 768), depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))
_base = dict(embed_dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
VARIANTS = {
    "l2vit_tiny": _tiny,
    "l2vit_small": dict(_tiny, depths=(2, 2, 18, 2)),
    "l2vit_base": _base,
    "l2vit_base_384": dict(_base, window_size=12),
    "l2vit_test": dict(embed_dims=(16, 32, 64, 64), depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 4), mlp_ratio=2.0),
}


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> L2ViT:
    return build_model_with_cfg(
        L2ViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


register_variants(__name__, _create, VARIANTS)
