"""Isotropic NAT and DiNAT, and ViT with relative positional bias (ViT-RPB): one resolution throughout.

Sources: Neighborhood Attention Transformer (Hassani et al., CVPR 2023, arXiv:2204.07143) and Dilated Neighborhood
Attention Transformer (Hassani and Shi, 2022, arXiv:2209.15001), sections on isotropic variants.
"""

from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, Union

import torch
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    PatchEmbed,
    calculate_drop_path_rates,
    get_act_layer,
    get_norm_layer,
    register_notrace_function,
    to_2tuple,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, checkpoint, checkpoint_seq, generate_default_cfgs
from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from visionattn.layers import LayerNorm, NeighborhoodAttention2D
from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone
from visionattn.models._block import Block
from visionattn.models._variants import imagenet_cfg, register_variants

__all__ = ["IsotropicNAT", "RelativeBiasAttention", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]


@register_notrace_function  # compares sizes, which a symbolic trace can't
def dense_bias(table: Tensor, height: int, width: int) -> Tensor:
    """The bias of every query-key pair of a map, from a table of relative positions.

    Args:
        table: `[heads, 2 * S - 1, 2 * T - 1]`, indexed by key minus query plus `S - 1` or `T - 1`; a table of another
            map is resized bicubically.
        height: Height of the map.
        width: Width of the map.

    Returns:
        `[heads, height * width, height * width]`.
    """
    size = [2 * height - 1, 2 * width - 1]
    if table.shape[1] != size[0] or table.shape[2] != size[1]:
        wide = table if table.dtype == torch.float64 else table.float()
        table = F.interpolate(wide.unsqueeze(0), size, mode="bicubic", align_corners=False)[0].to(table.dtype)
    # The window of keys that a query at row i sees starts at row height - 1 - i of the table.
    bias = table.unfold(1, height, 1).unfold(2, width, 1).flip(1, 2)
    return bias.reshape(table.shape[0], height * width, height * width)


class RelativeBiasAttention(nn.Module):
    """Multi-head self-attention over a whole map with a relative positional bias: `[B, H, W, dim]` to the same.

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Attention heads.
        feat_size: Height and width of the map that the bias table is made for; other maps resize it.
        qkv_bias: Whether the query, key and value projection has a bias.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feat_size: Tuple[int, int],
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.attn_drop = attn_drop
        self.rpb = nn.Parameter(torch.empty(num_heads, *(2 * side - 1 for side in feat_size), **dd))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the bias table; the projections are modules of their own."""
        trunc_normal_(self.rpb, std=0.02)

    @torch.jit.ignore
    def set_feat_size(self, feat_size: Tuple[int, int]) -> None:
        """Resizes the bias table for maps of another size."""
        size = [2 * side - 1 for side in feat_size]
        if list(self.rpb.shape[1:]) != size:
            table = _checkpoint.resize_bias_table(self.rpb.detach(), size)
            self.rpb = nn.Parameter(table, requires_grad=self.rpb.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = dense_bias(self.rpb, height, width).to(query.dtype)
        drop = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop)
        x = x.transpose(1, 2).reshape(batch, height, width, channels)
        return self.proj_drop(self.proj(x))


class IsotropicNAT(Backbone):
    """Isotropic neighborhood attention network, or ViT with relative positional bias.

    Takes `[B, in_chans, H, W]` of any size, zero-padded at the right and bottom to a multiple of `patch_size`; every
    block works on `[B, H / patch_size, W / patch_size, embed_dim]` (`output_fmt = "NHWC"`).

    Args:
        img_size: Height and width that bias tables of global attention are made for; other inputs resize them.
        patch_size: Side of a patch, in pixels.
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax", "catavgmax" or "" for none.
        depth: Number of blocks.
        embed_dim: Channels.
        num_heads: Attention heads.
        kernel_size: Attention window on both axes, odd; None for global attention (ViT-RPB).
        dilations: Dilations that the blocks take in turn; ints, or "max" for the largest that fits the map.
        mlp_ratio: Hidden width of the MLPs over the channels.
        qkv_bias: Whether the query, key and value projections have a bias.
        padding: What attention does where a window exceeds the map: "zero", "masked" or "error", see `NAT`.
        ls_init_value: Initial layer scale, None for no layer scale.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the patch embedding.
        proj_drop_rate: Dropout after the attention and MLP projections.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        act_layer: Activation of the MLPs.
        norm_layer: Channels-last norm.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        TypeError: an argument of the wrong type, or an unknown one.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depth: int = 12,
        embed_dim: int = 384,
        num_heads: int = 12,
        kernel_size: Optional[int] = 7,
        dilations: Sequence[Union[int, str]] = (1,),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
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
        if isinstance(dilations, (str, int)) or not dilations:
            raise ValueError(f"dilations must be a non-empty tuple of ints or 'max', got {dilations!r}")
        norm_layer, act_layer = get_norm_layer(norm_layer), get_act_layer(act_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NHWC"
        self.patch_size = patch_size
        self.num_features = embed_dim
        self.grad_checkpointing = False

        self.stem = PatchEmbed(
            None, patch_size, in_chans, embed_dim, norm_layer=norm_layer, output_fmt="NHWC", dynamic_img_pad=True, **dd
        )
        self.pos_drop = nn.Dropout(pos_drop_rate)
        common = dict(qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=proj_drop_rate, **dd)
        blocks = []
        for i, rate in enumerate(calculate_drop_path_rates(drop_path_rate, depth)):
            if kernel_size is None:
                attn = RelativeBiasAttention(embed_dim, num_heads, self._feat_size(img_size), **common)
            else:
                gap = dilations[i % len(dilations)]
                attn = NeighborhoodAttention2D(
                    embed_dim, num_heads, kernel_size, dilation=gap, rel_pos_bias=True, padding=padding, **common
                )
            blocks.append(
                Block(
                    embed_dim,
                    attn,
                    mlp_ratio,
                    ls_init_value=ls_init_value,
                    proj_drop=proj_drop_rate,
                    drop_path=rate,
                    act_layer=act_layer,
                    norm_layer=norm_layer,
                    **dd,
                )
            )
        self.blocks = nn.Sequential(*blocks)
        self.feature_info = [dict(num_chs=embed_dim, reduction=patch_size, module=f"blocks.{i}") for i in range(depth)]
        self.norm = norm_layer(embed_dim, **dd)
        self.head = ClassifierHead(
            embed_dim, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt=self.output_fmt, **dd
        )
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    def _feat_size(self, img_size: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
        height, width = to_2tuple(img_size)
        return -(-height // self.patch_size), -(-width // self.patch_size)

    @torch.jit.ignore
    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        """Makes the network one for images of another size: bias tables of global attention are resized for good."""
        for block in self.blocks:
            if isinstance(block.attn, RelativeBiasAttention):
                block.attn.set_feat_size(self._feat_size(img_size))
        update_model_input_size(self, img_size)

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters besides biases and norms that the papers mean to keep from weight decay."""
        return {name for name, _ in self.named_parameters() if name.endswith(".rpb")}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Parameter groups by depth, for layer-wise learning rates."""
        return dict(stem=r"^stem", blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes activations in backward instead of keeping them."""
        self.grad_checkpointing = enable

    def _embed(self, x: Tensor) -> Tensor:
        return self.pos_drop(self._stem(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Union[List[Tensor], Tuple[Tensor, List[Tensor]]]:
        """Block outputs.

        Args:
            x: `[B, in_chans, H, W]`.
            indices: Blocks to return; None for all, an int for the last n.
            norm: Whether to apply the final norm to each of them.
            stop_early: Whether to stop after the last block that is asked for.
            output_fmt: Layout of the intermediates, "NCHW" or "NHWC".
            intermediates_only: Whether to leave out the final features.

        Returns:
            The list of intermediates, or the final features `[B, H, W, C]` and the list.
        """
        assert output_fmt in ("NCHW", "NHWC"), "Output format must be NCHW or NHWC."
        take, last = feature_take_indices(len(self.blocks), indices)
        intermediates: List[Tensor] = []
        x = self._embed(x)
        if torch.jit.is_scripting() or not stop_early:  # TorchScript can't slice a Sequential
            blocks = self.blocks
        else:
            blocks = self.blocks[: last + 1]
        for i, block in enumerate(blocks):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x)
            else:
                x = block(x)
            if i in take:
                intermediates.append(self._as(self.norm(x) if norm else x, output_fmt))
        if intermediates_only:
            return intermediates
        return self.norm(x), intermediates

    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drops what the given blocks' outputs do not need; returns their indices."""
        take, last = feature_take_indices(len(self.blocks), indices)
        cut = last < len(self.blocks) - 1
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if cut or prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """`[B, in_chans, H, W]` to the normed final map `[B, H / patch_size, W / patch_size, embed_dim]`."""
        x = self._embed(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x)


_RENAMES = (
    (r"^patch_embed\.", r"stem."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def checkpoint_filter_fn(state_dict: Dict[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """The papers' state dict with our names; ours comes back unchanged. Bias tables of other sizes are resized."""
    state_dict = _checkpoint.unwrap(state_dict)
    renamed = _checkpoint.rename(state_dict, _RENAMES, drop=r"\.relative_position_index$")
    return _checkpoint.resize_bias_tables(renamed, model)


_cfg = partial(
    imagenet_cfg,
    reduction=16,
    first_conv="stem.proj",
    license="mit",
    origin_url="https://github.com/SHI-Labs/Neighborhood-Attention-Transformer",
)
_nat = partial(_cfg, paper_ids="arXiv:2204.07143")
_dinat = partial(_cfg, paper_ids="arXiv:2209.15001")

default_cfgs = generate_default_cfgs(
    {
        "nat_isotropic_small.in1k": _nat(),
        "nat_isotropic_base.in1k": _nat(),
        "dinat_isotropic_small.in1k": _dinat(),
        "dinat_isotropic_base.in1k": _dinat(),
        "vitrpb_small.in1k": _dinat(),
        "vitrpb_base.in1k": _dinat(),
        "nat_isotropic_test": _nat(),
        "vitrpb_test": _dinat(),
    }
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> IsotropicNAT:
    depth = kwargs["depth"]
    return build_model_with_cfg(
        IsotropicNAT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=tuple(depth * (i + 1) // 4 - 1 for i in range(4)), feature_cls="getter"),
        **kwargs,
    )


_small = dict(depth=12, embed_dim=384, num_heads=12)
_base = dict(depth=12, embed_dim=768, num_heads=24)
_test = dict(depth=4, embed_dim=64, num_heads=2, mlp_ratio=2.0)

VARIANTS = {
    "nat_isotropic_small": _small,
    "nat_isotropic_base": _base,
    "dinat_isotropic_small": dict(_small, dilations=(1, 2)),
    "dinat_isotropic_base": dict(_base, dilations=(1, 2)),
    "vitrpb_small": dict(_small, kernel_size=None),
    "vitrpb_base": dict(_base, kernel_size=None),
    "nat_isotropic_test": dict(_test, kernel_size=3),
    "vitrpb_test": dict(_test, kernel_size=None),
}
PUBLISHED_TOP1 = {  # of the released weights
    "nat_isotropic_small": 80.0,
    "nat_isotropic_base": 81.6,
    "dinat_isotropic_small": 80.8,
    "dinat_isotropic_base": 82.1,
    "vitrpb_small": 81.2,
    "vitrpb_base": 82.5,
}
register_variants(__name__, _create, VARIANTS)
