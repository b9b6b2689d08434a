"""The pyramid that RAVLT and MAViT share: gated attention, linear in the first stages and softmax in the last."""

from typing import Any, Callable, Dict, Sequence, Union

import torch
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    ConvNormAct,
    DropPath,
    LayerNorm2d,
    calculate_drop_path_rates,
    get_act_layer,
    is_exportable,
    register_notrace_function,
    trunc_normal_,
)
from timm.models import checkpoint
from torch import Tensor, nn

from visionattn import ops
from visionattn.layers.conv_norm import ConvNorm
from visionattn.layers.rotary import AxialRotary
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone, Stage, check_per_stage
from visionattn.models._family import OutputNorms
from visionattn.ops import reference
from visionattn.utils.fuse import scale_outputs

__all__ = ["OUTPUT_NORMS", "VARIANTS", "GatedPyramid", "checkpoint_filter_fn"]

LINEAR = ("rank_augmented", "magnitude_aware")
ATTENTIONS = (*LINEAR, "softmax")
LayerType = Union[str, Callable[..., nn.Module]]


@register_notrace_function  # the operators compare sizes, which a symbolic trace can't
def attend(
    query: Tensor, key: Tensor, value: Tensor, angle: Tensor, num_heads: int, attn_type: str, backend: str
) -> Tensor:
    """Attention with rotary positions over the pixels of maps `[B, num_heads * head_dim, H, W]`, in their layout."""
    batch, channels, height, width = query.shape
    shape = (batch, num_heads, channels // num_heads, height * width)
    q, k, v = [x.reshape(shape).transpose(2, 3) for x in (query, key, value)]
    if attn_type == "softmax":
        sin, cos = reference.rotary_tables(angle, height, width)
        q, k = [reference.rotate(x, sin, cos).to(v.dtype) for x in (q, k)]
        out = F.scaled_dot_product_attention(q, k, v)
    elif torch.jit.is_scripting():  # the checks of the operators are beyond TorchScript
        if attn_type == "rank_augmented":
            out = reference.rank_augmented_linear_attention(q, k, v, angle, height, width, 1e-6)
        else:
            out = reference.magnitude_aware_linear_attention(q, k, v, angle, height, width, 1e-6)
    else:
        function = getattr(ops, f"{attn_type}_linear_attention")
        out = function(q, k, v, angle, (height, width), backend=backend)
    return out.transpose(2, 3).reshape(batch, channels, height, width)


class GatedAttention(nn.Module):
    """Attention plus a convolution of the values, times a linear map of the input: `[B, dim, H, W]` to the same.

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Attention heads.
        attn_type: "rank_augmented", "magnitude_aware" or "softmax".
        proj_drop: Dropout after the output projection.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(self, dim: int, num_heads: int, attn_type: str, proj_drop: float = 0.0, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.num_heads = num_heads
        self.attn_type = attn_type
        self.backend = "reference" if is_exportable() else "auto"
        self.qkvo = nn.Conv2d(dim, 4 * dim, 1, **dd)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, **dd)
        self.proj = nn.Conv2d(dim, dim, 1, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        query, key, value, gate = self.qkvo(x).chunk(4, dim=1)
        out = attend(query, key, value, angle, self.num_heads, self.attn_type, self.backend)
        return self.proj_drop(self.proj((out + self.lepe(value)) * gate))


class ConvMlp(nn.Module):
    """1x1 convolution, activation, 3x3 depthwise convolution with a shortcut, 1x1 convolution."""

    def __init__(
        self, dim: int, hidden: int, act_layer: Callable[..., nn.Module], drop: float = 0.0, device=None, dtype=None
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1, **dd)
        self.act = act_layer()
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.fc2 = nn.Conv2d(hidden, dim, 1, **dd)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        return self.drop(self.fc2(x + self.dwconv(x)))


class Block(nn.Module):
    """Depthwise convolution as position encoding, attention, MLP, each with a shortcut; layer scales `[1, dim, 1, 1]`.

    The scales have four axes as in the released model, so the recipe's weight decay acts on them.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attn_type: str,
        mlp_ratio: float,
        ls_init_value: float,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Callable[..., nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.ls_init_value = ls_init_value
        self.pos = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.norm1 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.attn = GatedAttention(dim, num_heads, attn_type, proj_drop, **dd)
        self.gamma_1 = nn.Parameter(torch.empty(1, dim, 1, 1, **dd))
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.ffn = ConvMlp(dim, int(dim * mlp_ratio), act_layer, proj_drop, **dd)
        self.gamma_2 = nn.Parameter(torch.empty(1, dim, 1, 1, **dd))
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the layer scales."""
        nn.init.constant_(self.gamma_1, self.ls_init_value)
        nn.init.constant_(self.gamma_2, self.ls_init_value)

    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        x = x + self.pos(x)
        x = x + self.drop_path1(self.gamma_1 * self.attn(self.norm1(x), angle))
        return x + self.drop_path2(self.gamma_2 * self.ffn(self.norm2(x)))

    def fuse(self) -> nn.Module:
        """The same function in eval mode without layer scales; see `visionattn.fuse`."""
        return FusedBlock(self)


class FusedBlock(nn.Module):
    """A block in eval mode, its layer scales folded into the projections before them."""

    def __init__(self, block: Block):
        super().__init__()
        self.pos, self.norm1, self.attn, self.norm2, self.ffn = (
            getattr(block, name) for name in ("pos", "norm1", "attn", "norm2", "ffn")
        )
        scale_outputs(self.attn.proj, block.gamma_1.detach().flatten())
        scale_outputs(self.ffn.fc2, block.gamma_2.detach().flatten())

    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        x = x + self.pos(x)
        x = x + self.attn(self.norm1(x), angle)
        return x + self.ffn(self.norm2(x))


class RotaryStage(Stage):
    """A stage whose blocks share the angles of rotary positions."""

    def __init__(self, downsample: nn.Module, rope: AxialRotary, blocks: Sequence[nn.Module]):
        super().__init__(downsample, ())
        self.blocks = nn.ModuleList(blocks)  # no Sequential: its forward would pass the map alone
        self.rope = rope

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        angle = self.rope()
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, angle)
            else:
                x = block(x, angle)
        return self.norm(x)


class GatedPyramid(Backbone):
    """Four stages of gated attention on maps `[B, C, H, W]`; its subclasses name the linear attention.

    Takes `[B, in_chans, H, W]` of any size. Stage `i` gives `[B, embed_dims[i], ~H / 2**(i+2), ~W / 2**(i+2)]`; the
    final features have `proj_dim` channels.

    Args:
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax", "catavgmax" or "" for none.
        embed_dims: Channels per stage.
        depths: Blocks per stage.
        num_heads: Attention heads per stage; a head's channels must be a multiple of 4.
        attn_types: Attention per stage: "linear" for the family's own, or "softmax". The released models have softmax
            in the last two stages; "linear" everywhere makes the cost linear in the pixels.
        mlp_ratio: Hidden width of the MLPs over the channels.
        ls_init_values: Initial layer scale per stage.
        proj_dim: Channels of the convolution before the pooling.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout after the attention projections and the MLPs.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        act_layer: Activation of stem and MLPs.
        device: Device of the parameters.
        dtype: Dtype of the parameters; the angles of rotary positions stay float32 in half precision.

    Raises:
        TypeError: an unknown argument.
        ValueError: an argument out of range, or lengths that do not agree.
    """

    linear_attention: str  # of LINEAR

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        attn_types: Sequence[str] = ("linear", "linear", "softmax", "softmax"),
        mlp_ratio: float = 3.5,
        ls_init_values: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        proj_dim: int = 1024,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = "gelu",
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        check_per_stage(
            depths, embed_dims=embed_dims, num_heads=num_heads, attn_types=attn_types, ls_init_values=ls_init_values
        )
        if any(kind not in ("linear", "softmax") for kind in attn_types):
            raise ValueError(f"attn_types must be 'linear' or 'softmax' for each stage, got {tuple(attn_types)}")
        for dim, heads in zip(embed_dims, num_heads):
            if heads < 1 or dim % (4 * heads):
                raise ValueError(f"embed_dims must be multiples of 4 * num_heads, got {dim} for {heads} heads")
        act_layer = get_act_layer(act_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NCHW"

        half = embed_dims[0] // 2
        self.stem = nn.Sequential(
            *(ConvNorm(in_chans, half, stride=2, bias=True, **dd), act_layer()),
            *(ConvNorm(half, half, bias=True, **dd), act_layer()),
            *(ConvNorm(half, half, bias=True, **dd), act_layer()),
            ConvNorm(half, embed_dims[0], stride=2, bias=True, **dd),
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        self.feature_info = []
        for i, (dim, heads) in enumerate(zip(embed_dims, num_heads)):
            attn_type = self.linear_attention if attn_types[i] == "linear" else "softmax"
            blocks = [
                Block(dim, heads, attn_type, mlp_ratio, ls_init_values[i], proj_drop_rate, rate, act_layer, **dd)
                for rate in rates[i]
            ]
            reduce = ConvNorm(embed_dims[i - 1], dim, stride=2, bias=True, **dd) if i else nn.Identity()
            stages.append(RotaryStage(reduce, AxialRotary(dim // heads, device), blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}"))
        self.stages = nn.Sequential(*stages)
        self.num_features = proj_dim
        self.norm = ConvNormAct(embed_dims[-1], proj_dim, 1, bias=True, act_layer=nn.SiLU, **dd)
        self.head = ClassifierHead(proj_dim, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Truncated normal (0.02) weights, zero biases; norms and layer scales as they reset themselves."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _stem(match) -> str:
    """Of the index in the released stem, a convolution, norm and activation after the other."""
    step, kind = divmod(int(match[1]), 3)
    return f"stem.{2 * step}.{('conv', 'norm')[kind]}."


# Names of the papers' code to ours. A stage's downsampling moves to the next stage.
_RENAMES = (
    (r"^(?:proj)\.", r"norm.conv."),
    (r"^norm\.(?!conv\.|bn\.)", r"norm.bn."),
    (r"^patch_embed\.proj\.(\d+)\.", _stem),
    (r"^layers\.(\d+)\.downsample\.reduction\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.conv."),
    (r"^layers\.(\d+)\.downsample\.norm\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.norm."),
    (r"^layers\.(\d+)\.RoPE\.", r"stages.\1.rope."),
    (r"^layers\.(\d+)\.", r"stages.\1."),
    (r"\.norm([12])\.norm\.", r".norm\1."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
OUTPUT_NORMS = OutputNorms(eps=1e-6, names=r"^extra_norms\.(\d+)\.norm\.(weight|bias)$")


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict with our names; ours comes back unchanged.

    The classifier, a 1x1 convolution there, becomes a linear layer. Output norms of dense-prediction models are
    dropped. The two families have the same names: a classification checkpoint of the other one is told by the shape of
    `norm.conv.weight`, a dense-prediction one is not.
    """
    out = _checkpoint.rename(_checkpoint.unwrap(state_dict), _RENAMES, drop=r"^extra_norms\.")
    if "head.fc.weight" in out:
        out["head.fc.weight"] = out["head.fc.weight"].flatten(1)
    return out


_tiny = dict(embed_dims=(64, 128, 256, 512), depths=(2, 2, 6, 2), num_heads=(1, 2, 4, 8))
_base_scales = (1.0, 1.0, 1e-6, 1e-6)
# Size to constructor arguments, alike in both families but for the width before the pooling.
VARIANTS: Dict[str, Dict[str, Any]] = {
    "t": _tiny,
    "s": dict(embed_dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), num_heads=(1, 2, 5, 8)),
    "b": dict(
        embed_dims=(96, 192, 384, 512), depths=(4, 6, 12, 6), num_heads=(1, 2, 6, 8), ls_init_values=_base_scales
    ),
    "l": dict(
        embed_dims=(96, 192, 448, 640), depths=(4, 7, 19, 8), num_heads=(1, 2, 7, 10), ls_init_values=(1e-6,) * 4
    ),
    "test": dict(embed_dims=(16, 32, 64, 64), depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 4), mlp_ratio=2.0, proj_dim=128),
}
