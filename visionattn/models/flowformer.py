"""Flowformer for images: a four-stage pyramid of Flow-Attention.

Source: Flowformer: Linearizing Transformers with Conservation Flows (Wu et al., ICML 2022, arXiv:2202.06258) and its
released code.
"""

from functools import partial
from typing import Any, Callable, Dict, Sequence, Set, Tuple, Union

import torch
from timm.layers import (
    ClassifierHead,
    DropPath,
    LayerNorm,
    LayerScale,
    Mlp,
    calculate_drop_path_rates,
    get_norm_layer,
    to_2tuple,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from visionattn.layers.positions import resize_positions
from visionattn.layers.token_mixers import FlowAttention
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone, Stage, check_per_stage
from visionattn.models._family import OutputNorms
from visionattn.models._inputs import pad_to_multiple
from visionattn.models._variants import imagenet_cfg, register_variants
from visionattn.utils.fuse import fold_layer_scale

__all__ = ["Flowformer", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]
PATCH = 4


class PatchStem(nn.Module):
    """4x4 patches and position embeddings: `[B, C, H, W]` to `[B, H / 4, W / 4, dim]`, rounded up."""

    def __init__(self, in_chans: int, dim: int, grid: Tuple[int, int], device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.grid = grid
        self.patch_size = PATCH
        self.proj = nn.Conv2d(in_chans, dim, PATCH, PATCH, **dd)
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the position embeddings; the convolution is a module of its own."""
        trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(pad_to_multiple(x, self.patch_size)).permute(0, 2, 3, 1)
        return x + resize_positions(self.pos_embed, self.grid[0], self.grid[1], x.shape[1], x.shape[2], "bicubic")


class PatchMerge(nn.Module):
    """Convolution of 2x2 patches: `[B, H, W, C]` to `[B, H / 2, W / 2, C_out]`, rounded up."""

    def __init__(self, dim: int, out_dim: int, device=None, dtype=None):
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, 2, 2, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(pad_to_multiple(x.permute(0, 3, 1, 2), 2)).permute(0, 2, 3, 1)


class FlowBlock(nn.Module):
    """Pre-norm block on `[B, H, W, C]`; only the MLP has a layer scale."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        ls_init_value: float,
        drop_path: float,
        norm_layer: Callable[..., nn.Module],
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm1 = norm_layer(dim, **dd)
        self.attn = FlowAttention(dim, num_heads, **dd)
        self.norm2 = norm_layer(dim, **dd)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), **dd)
        self.ls2 = LayerScale(dim, ls_init_value, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x).flatten(1, 2)).reshape(x.shape))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def fuse(self) -> nn.Module:
        """Folds the layer scale into the projection before it; see `visionattn.fuse`."""
        self.ls2 = fold_layer_scale(self.mlp.fc2, self.ls2)
        return self


class Flowformer(Backbone):
    """Flow-Attention pyramid.

    Takes `[B, in_chans, H, W]` of any size (the released code: `img_size` alone). Stage `i` gives `[B, ~H / 2**(i+2),
    ~W / 2**(i+2), dims[i]]`; features are channels-last (`output_fmt = "NHWC"`).

    Args:
        img_size: Height and width that the position embeddings are made for; they are resized to other inputs.
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax", "catavgmax" or "" for none.
        depths: Blocks per stage.
        dims: Channels per stage, multiples of `num_heads`.
        num_heads: Attention heads, in every stage.
        mlp_ratio: Hidden width of the MLPs over the channels.
        ls_init_value: Initial layer scale of the MLPs.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        norm_layer: Channels-last norm.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        TypeError: an argument of the wrong type, or an unknown one.
        ValueError: an argument out of range, or lengths that do not agree.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 3, 10, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        ls_init_value: float = 1e-5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: LayerType = LayerNorm,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        check_per_stage(depths, dims=dims)
        norm_layer = get_norm_layer(norm_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NHWC"

        self.stem = PatchStem(in_chans, dims[0], _grid(img_size), **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        self.feature_info = []
        for i, dim in enumerate(dims):
            merge = PatchMerge(dims[i - 1], dim, **dd) if i else nn.Identity()
            blocks = [FlowBlock(dim, num_heads, mlp_ratio, ls_init_value, rate, norm_layer, **dd) for rate in rates[i]]
            stages.append(Stage(merge, blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=PATCH * 2**i, module=f"stages.{i}"))
        self.stages = nn.Sequential(*stages)
        self.num_features = dims[-1]
        self.norm = norm_layer(self.num_features, **dd)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt=self.output_fmt, **dd
        )
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    @torch.jit.ignore
    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        """Makes the network one for images of another size: the position embeddings are resized for good."""
        grid, table = _grid(img_size), self.stem.pos_embed
        resized = resize_positions(table.detach(), *self.stem.grid, *grid, "bicubic").flatten(1, 2)
        self.stem.pos_embed = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.stem.grid = grid
        update_model_input_size(self, img_size)

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters besides biases and norms that the paper keeps from weight decay."""
        return {"stem.pos_embed"}


def _grid(img_size: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
    height, width = to_2tuple(img_size)
    return -(-height // PATCH), -(-width // PATCH)


_RENAMES = (
    (r"^pos_embed$", r"stem.pos_embed"),
    (r"^patch_embed\.0\.", r"stem."),
    (r"^patch_embed\.(\d+)\.", r"stages.\1.downsample."),
    (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"(blocks\.\d+)\.gamma$", r"\1.ls2.gamma"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
OUTPUT_NORMS = OutputNorms(eps=1e-6)


def checkpoint_filter_fn(state_dict: Dict[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """A released state dict with our names; ours comes back unchanged.

    Position embeddings of another (square) grid are resized; output norms and a profiler's leftovers are dropped.
    """
    drop = rf"{OUTPUT_NORMS.names}|total_(ops|params)$"
    weights = _checkpoint.rename(_checkpoint.unwrap(state_dict), _RENAMES, drop)
    table = weights.get("stem.pos_embed")
    if table is not None and table.shape[1] != model.stem.pos_embed.shape[1]:
        side = round(table.shape[1] ** 0.5)
        weights["stem.pos_embed"] = resize_positions(table, side, side, *model.stem.grid, "bicubic").flatten(1, 2)
    return weights


_cfg = partial(
    imagenet_cfg,
    reduction=32,
    first_conv="stem.proj",
    license="mit",
    origin_url="https://github.com/thuml/Flowformer",
    paper_ids="arXiv:2202.06258",
    paper_name="Flowformer: Linearizing Transformers with Conservation Flows",
)
VARIANTS = {
    "flowformer": dict(depths=(3, 3, 10, 3), dims=(96, 192, 384, 768)),
    "flowformer_test": dict(depths=(1, 1, 2, 1), dims=(32, 48, 64, 96), num_heads=4, mlp_ratio=2.0, img_size=64),
}
PUBLISHED_TOP1 = {"flowformer": 80.6}
default_cfgs = generate_default_cfgs({"flowformer.in1k": _cfg(), "flowformer_test": _cfg()})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> Flowformer:
    return build_model_with_cfg(
        Flowformer,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


register_variants(__name__, _create, VARIANTS)
