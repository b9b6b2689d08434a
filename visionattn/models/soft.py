"""SOFT and SOFT++ (its "norm" models): pyramids of softmax-free attention with a last stage of plain ViT blocks.

Sources: SOFT (Lu et al., NeurIPS 2021, arXiv:2110.11945), Softmax-free Linear Transformers (Lu et al., IJCV 2024,
arXiv:2207.03341) and their released code.
"""

import re
from functools import partial
from typing import Any, Callable, Dict, List, Sequence, Set, Union

import torch
import torch.nn.functional as F
from timm.layers import (
    DropPath,
    LayerNorm,
    Mlp,
    calculate_drop_path_rates,
    get_norm_layer,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

from visionattn.layers import SoftmaxFreeAttention, TokenHead
from visionattn.layers.positions import resize_positions
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone, Stage
from visionattn.models._family import OutputNorms
from visionattn.models._variants import imagenet_cfg, register_variants

__all__ = ["SOFT", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]
HEAD_DIM = 32
GRIDS = (56, 28, 14, 7)  # of the position embeddings, at any input size
LANDMARK_STRIDES = (8, 4, 2)
LOCAL_KERNELS = (9, 5, 3)


class ConvEmbed(nn.Module):
    """Convolutions with batch norm and ReLU, then position embeddings: `[B, H, W, C]` to `[B, H', W', C']`.

    `widths[i]` and `strides[i]` are of the i-th convolution. With `channels_first` the input is `[B, C, H, W]`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        grid: int,
        channels_first: bool = False,
        drop: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.grid = grid
        self.channels_first = channels_first
        layers: List[nn.Module] = []
        for inner, outer, stride in zip(widths, widths[1:], strides):
            layers += [nn.Conv2d(inner, outer, 3, stride, 1, **dd), nn.BatchNorm2d(outer, **dd), nn.ReLU()]
        self.proj = nn.Sequential(*layers)
        self.pos_embed = nn.Parameter(torch.empty(1, grid * grid, widths[-1], **dd))
        self.drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the position embeddings; the convolutions are modules of their own."""
        trunc_normal_(self.pos_embed, std=0.02)

    def _positions(self, table: Tensor, x: Tensor) -> Tensor:
        return resize_positions(table, self.grid, self.grid, x.shape[1], x.shape[2], "bilinear")

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.channels_first else x.permute(0, 3, 1, 2)
        x = self.proj(x).permute(0, 2, 3, 1)
        return self.drop(x + self._positions(self.pos_embed, x))


class TokenEmbed(ConvEmbed):
    """`ConvEmbed` to tokens `[B, 1 + H' * W', C']`, the class token first; its position is the embedding's first."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int], grid: int, device=None, dtype=None):
        super().__init__(widths, strides, grid, device=device, dtype=dtype)
        self.pos_embed = nn.Parameter(self.pos_embed.new_empty(1, 1 + grid * grid, widths[-1]))
        self.cls_token = nn.Parameter(self.pos_embed.new_empty(1, 1, widths[-1]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the position embeddings and the class token."""
        trunc_normal_(self.pos_embed, std=0.02)
        if hasattr(self, "cls_token"):
            trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        x = (x + self._positions(rest, x)).flatten(1, 2)
        return torch.cat([(self.cls_token + first).to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)


class SoftBlock(nn.Module):
    """Post-norm block on `[B, H, W, C]`; `drop` is of single elements, as in the released code, not of paths."""

    def __init__(self, dim: int, attn: nn.Module, drop: float = 0.0, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.attn = attn
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, 4 * dim, act_layer=partial(nn.GELU, approximate="tanh"), **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.drop(self.attn(x)))
        return self.norm2(x + self.drop(self.mlp(x)))


class SoftmaxAttention(nn.Module):
    """Multi-head softmax attention over tokens `[B, N, dim]`, keys and values from one projection."""

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, **dd)
        self.kv = nn.Linear(dim, 2 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        query = self.q(x).unflatten(2, [self.num_heads, -1]).transpose(1, 2)
        key, value = self.kv(x).unflatten(2, [2, self.num_heads, -1]).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class TokenBlock(nn.Module):
    """Pre-norm block on tokens `[B, N, C]` with softmax attention."""

    def __init__(
        self, dim: int, num_heads: int, norm_layer: Callable[..., nn.Module], drop_path: float, device=None, dtype=None
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm1 = norm_layer(dim, **dd)
        self.attn = SoftmaxAttention(dim, num_heads, **dd)
        self.norm2 = norm_layer(dim, **dd)
        self.mlp = Mlp(dim, 4 * dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SOFT(Backbone):
    """Softmax-free pyramid; SOFT and SOFT++ are its variants.

    Takes `[B, in_chans, H, W]` of any size. The three softmax-free stages give `[B, ~H / 2**(i+2), ~W / 2**(i+2),
    dims[i]]`; the last one has a class token and softmax attention, and `forward_features` gives its normed tokens
    `[B, 1 + N, dims[3]]`, the class token first. `forward_intermediates` gives maps of all four.

    Args:
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "token" (the class token), "avg", "max" or "avgmax" of the others, "" none.
        depths: Blocks per stage.
        dims: Channels per stage, multiples of 32, the width of a head.
        inverse: "damped" (today's code of SOFT) or "global" (SOFT's first code, SOFT++), see
            `visionattn.ops.newton_inverse`. A checkpoint does not tell: SOFT's released weights of 2021 were trained
            with "global" and are evaluated with "damped" by today's released code.
        normalize: Whether the inverse is scaled by the landmarks' degrees (SOFT++). Such models keep PyTorch's
            initialization of linear layers in the first three stages, as the released ones do.
        newton_iterations: Iterations of the inverse.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embeddings of the first three stages.
        drop_path_rate: Of the last block, growing linearly from 0 at the first: dropout of single elements in the first
            three stages, stochastic depth in the last.
        norm_layer: Norm of the last stage and of the features.
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
        global_pool: str = "token",
        depths: Sequence[int] = (1, 2, 3, 2),
        dims: Sequence[int] = (64, 128, 320, 512),
        inverse: str = "damped",
        normalize: bool = False,
        newton_iterations: int = 20,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: LayerType = LayerNorm,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        if len(depths) != 4 or len(dims) != 4:
            raise ValueError(f"depths and dims must have four entries, got {tuple(depths)} and {tuple(dims)}")
        if any(dim < 1 or dim % HEAD_DIM for dim in dims):
            raise ValueError(f"dims must be multiples of {HEAD_DIM}, got {tuple(dims)}")
        norm_layer = get_norm_layer(norm_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NLC"
        self.num_prefix_tokens = 1
        self.normalize = normalize

        stem = dict(widths=(in_chans, 32, 32, dims[0]), strides=(2, 1, 2), channels_first=True)
        self.stem = ConvEmbed(grid=GRIDS[0], drop=pos_drop_rate, **stem, **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i in range(3):
            embed = nn.Identity()
            if i:
                embed = ConvEmbed(dims[i - 1 : i + 1], (2,), GRIDS[i], drop=pos_drop_rate, **dd)
            attention = partial(
                SoftmaxFreeAttention,
                dims[i],
                dims[i] // HEAD_DIM,
                LANDMARK_STRIDES[i],
                LOCAL_KERNELS[i],
                inverse=inverse,
                normalize=normalize,
                newton_iterations=newton_iterations,
                **dd,
            )
            stages.append(Stage(embed, [SoftBlock(dims[i], attention(), rate, **dd) for rate in rates[i]]))
        blocks = [TokenBlock(dims[3], dims[3] // HEAD_DIM, norm_layer, rate, **dd) for rate in rates[3]]
        stages.append(Stage(TokenEmbed(dims[2:], (2,), GRIDS[3], **dd), blocks))
        self.stages = nn.Sequential(*stages)
        self.feature_info = [dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)]
        self.num_features = dims[3]
        self.norm = norm_layer(self.num_features, **dd)
        self.head = TokenHead(self.num_features, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initializes every parameter, also after `to_empty()`."""
        super().init_weights()
        if self.normalize:
            for module in self.stages[:3].modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """The class token; position embeddings are decayed, as in the released recipe."""
        return {name for name, _ in self.named_parameters() if name.endswith("cls_token")}

    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drops what the given stages' outputs do not need; returns their indices."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if len(self.stages) < 4:  # the class token went with the last stage
            self.output_fmt, self.num_prefix_tokens = "NHWC", 0
        return take

    def _map(self, x: Tensor, stage: int, images: Tensor) -> Tensor:
        if stage < 3:
            return x
        return x[:, 1:].unflatten(1, [-(-images.shape[2] // 32), -(-images.shape[3] // 32)])


def _rename_stage(match: re.Match) -> str:
    return f"stages.{int(match[1]) - 1}."


# Names of the released code to ours; its stages count from 1.
_RENAMES = (
    (r"^patch_embed1\.", r"stem."),
    (r"^pos_embed1$", r"stem.pos_embed"),
    (r"^patch_embed(\d)\.", lambda match: f"{_rename_stage(match)}downsample."),
    (r"^pos_embed(\d)$", lambda match: f"{_rename_stage(match)}downsample.pos_embed"),
    (r"^cls_token$", r"stages.3.downsample.cls_token"),
    (r"^block(\d)\.", lambda match: f"{_rename_stage(match)}blocks."),
    (r"\.att\.mha\.attn\.Qlandmark_op\.", r".attn.landmark."),
    (r"\.att\.mha\.attn\.Qnorm_act\.0\.", r".attn.landmark_norm."),
    (r"\.att\.mha\.attn\.conv\.", r".attn.local."),
    (r"\.att\.mha\.W_([qv])\.", r".attn.\1."),
    (r"\.att\.mha\.ff\.", r".attn.proj."),
    (r"\.att\.ff([12])\.", r".mlp.fc\1."),
    (r"\.att\.norm([12])\.", r".norm\1."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
OUTPUT_NORMS = OutputNorms(eps=1e-6)


def checkpoint_filter_fn(state_dict: Dict[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict with our names; ours comes back unchanged. Output norms (`norm0` ...) are dropped.

    Raises:
        ValueError: the checkpoint has another number of blocks; the message names the variant that fits.
    """
    weights = _checkpoint.rename(_checkpoint.unwrap(state_dict), _RENAMES, drop=OUTPUT_NORMS.names)
    matches = [re.match(r"stages\.(\d+)\.blocks\.(\d+)\.norm1\.weight$", name) for name in weights]
    depths = [len({match[2] for match in matches if match and int(match[1]) == stage}) for stage in range(4)]
    own = [len(stage.blocks) for stage in model.stages]
    if all(depths) and depths[: len(own)] != own:
        dims = [weights[f"stages.{stage}.blocks.0.norm1.weight"].numel() for stage in range(4)]
        fitting = [
            name
            for name, variant in VARIANTS.items()
            if [*variant["depths"]] == depths
            and [*variant["dims"]] == dims
            and variant.get("normalize", False) == model.normalize
        ]
        hint = f"; that is {fitting[0]}" if fitting else f"; pass depths={tuple(depths)}"
        raise ValueError(f"state_dict is of a model with depths {depths} and dims {dims}, not {own}{hint}")
    return weights


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    crop_pct=0.9,
    first_conv="stem.proj.0",
    license="mit",
    origin_url="https://github.com/fudan-zvg/SOFT",
)
_soft = partial(_cfg, paper_ids="arXiv:2110.11945", paper_name="SOFT: Softmax-free Transformer with Linear Complexity")
_norm = partial(_cfg, paper_ids="arXiv:2207.03341", paper_name="Softmax-free Linear Transformers")

_SIZES = {
    "tiny": dict(depths=(1, 2, 3, 2), dims=(64, 128, 320, 512)),
    "small": dict(depths=(1, 3, 20, 4), dims=(64, 128, 320, 512)),  # of the released code: 39 M parameters
    "small_d7": dict(depths=(1, 3, 7, 4), dims=(64, 128, 320, 512)),  # of the papers: 24 M parameters
    "medium": dict(depths=(1, 3, 29, 5), dims=(64, 128, 288, 512)),
    "large": dict(depths=(1, 3, 40, 5), dims=(64, 128, 320, 512)),
    "huge": dict(depths=(1, 5, 49, 5), dims=(64, 128, 352, 512)),
    "test": dict(depths=(1, 1, 2, 1), dims=(32, 64, 64, 96)),
}
VARIANTS = {
    **{f"soft_{size}": arguments for size, arguments in _SIZES.items()},
    **{f"soft_norm_{size}": dict(arguments, inverse="global", normalize=True) for size, arguments in _SIZES.items()},
}
ALIASES = {f"{kind}_{size}": (f"{kind}_{size[0]}",) for kind in ("soft", "soft_norm") for size in ("medium", "huge")}
PUBLISHED_TOP1 = {
    "soft_tiny": 79.3,
    "soft_small_d7": 82.2,
    "soft_medium": 82.9,
    "soft_large": 83.1,
    "soft_huge": 83.3,
    "soft_norm_tiny": 79.4,
    "soft_norm_small_d7": 82.4,
    "soft_norm_medium": 83.1,
    "soft_norm_large": 83.3,
    "soft_norm_huge": 83.4,
}

default_cfgs = generate_default_cfgs(
    {name if name.endswith("_test") else f"{name}.in1k": _norm() if "_norm_" in name else _soft() for name in VARIANTS}
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> SOFT:
    return build_model_with_cfg(
        SOFT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


register_variants(__name__, _create, VARIANTS, ALIASES)
