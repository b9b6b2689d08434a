"""DualToken-ViT: convolutions for local tokens, and 7x7 global tokens that travel through the network, in every block.

Source: DualToken-ViT: Position-aware Efficient Vision Transformer with Dual Token Fusion (Chu et al., SDM 2024,
arXiv:2309.12424), on the design of LightViT (Huang et al., 2022, arXiv:2207.05557).

There is no official code and no checkpoint. The paper gives: three stages with LightViT's stem, patch merging and
bi-dimensional attention; a ConvNeXt-like block for local tokens; global tokens of 7x7 that are aggregated from a map
downsampled step by step (two, one and no steps), mixed into the travelling ones by a weighted sum after an MLP (over
channels, or over tokens and channels), and read back by the image tokens with attention; the sum of both branches; its
accuracy at 0.5 and 1.0 GFLOPs. Ours are: widths, depths, heads, ratios, the weight of the sum (0.5), where the norms
are, the feed-forward layer over image and global tokens together, the head, and the recipe; chosen to meet the paper's
FLOPs. The paper's accuracy is not a claim about these models.
"""

from functools import partial
from typing import Any, Callable, Dict, Sequence, Set, Union

import torch
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    LayerNorm,
    calculate_drop_path_rates,
    get_act_layer,
    get_norm_layer,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone
from visionattn.models._dualtoken import DualStage, DualTokenBlock, NoMerge, PatchMerge, State, Stem, TokenModule
from visionattn.models._family import OutputNorms
from visionattn.models._variants import imagenet_cfg, register_variants

__all__ = ["DualTokenViT", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]
HEAD_DIM = 32


class DualTokenViT(Backbone):
    """DualToken-ViT; see the module's docstring for what of it is the paper's.

    Takes `[B, in_chans, H, W]` of any size. Stage `i` gives `[B, ~H / 2**(i+3), ~W / 2**(i+3), dims[i]]`; features are
    channels-last (`output_fmt = "NHWC"`).

    Args:
        in_chans: Input channels.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling of the head: "avg", "max", "avgmax", "catavgmax" or "" for none.
        depths: Blocks per stage.
        dims: Channels per stage, multiples of 32, the width of a head.
        conv_ratio: Hidden width of the convolutional encoders over the channels.
        mlp_ratios: Hidden width of the feed-forward layers over the channels, per stage.
        grid: Side of the square of global tokens.
        token_mlp: MLP of the global tokens: "mix" (over tokens, then channels) or "normal" (over channels).
        alpha: Weight of the travelling global tokens in their sum with the aggregated ones.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 at the first.
        act_layer: Activation.
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
        depths: Sequence[int] = (2, 6, 6),
        dims: Sequence[int] = (64, 128, 256),
        conv_ratio: float = 4.0,
        mlp_ratios: Sequence[float] = (2.0, 2.0, 2.0),
        grid: int = 7,
        token_mlp: str = "mix",
        alpha: float = 0.5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = "gelu",
        norm_layer: LayerType = LayerNorm,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        if not len(depths) == len(dims) == len(mlp_ratios):
            given = f"{tuple(depths)}, {tuple(dims)} and {tuple(mlp_ratios)}"
            raise ValueError(f"depths, dims and mlp_ratios must have one entry per stage, got {given}")
        if any(dim < 1 or dim % HEAD_DIM for dim in dims):
            raise ValueError(f"dims must be multiples of {HEAD_DIM}, got {tuple(dims)}")
        if token_mlp not in ("mix", "normal"):
            raise ValueError(f"token_mlp must be 'mix' or 'normal', got {token_mlp!r}")
        norm_layer, act = get_norm_layer(norm_layer), get_act_layer(act_layer)()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.output_fmt = "NHWC"

        self.global_tokens = nn.Parameter(torch.empty(1, grid * grid, dims[0], **dd))
        common = dict(act=act, norm_layer=norm_layer, **dd)
        self.stem = Stem(in_chans, dims[0], **common)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        self.feature_info = []
        for i, (dim, mlp_ratio) in enumerate(zip(dims, mlp_ratios)):
            blocks, steps = [], len(dims) - 1 - i
            for rate in rates[i]:
                ptm = TokenModule(dim, dim // HEAD_DIM, grid, steps, token_mlp, alpha, **common)
                is_last = steps == 0 and len(blocks) == depths[i] - 1
                blocks.append(
                    DualTokenBlock(dim, conv_ratio, mlp_ratio, ptm, drop_path=rate, is_last=is_last, **common)
                )
            merge = PatchMerge(dims[i - 1], dim, norm_layer, **dd) if i else NoMerge()
            stages.append(DualStage(merge, blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=8 * 2**i, module=f"stages.{i}"))
        self.stages = nn.ModuleList(stages)  # a Sequential takes no pair in TorchScript
        self.num_features = dims[-1]
        self.norm = norm_layer(self.num_features, **dd)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt=self.output_fmt, **dd
        )
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initializes every parameter, also after `to_empty()`."""
        trunc_normal_(self.global_tokens, std=0.02)
        super().init_weights()

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters besides biases and norms that the recipe keeps from weight decay."""
        return {"global_tokens"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Parameter groups by depth, for layer-wise learning rates."""
        return dict(super().group_matcher(coarse), stem=r"^stem|^global_tokens")

    def _embed(self, x: Tensor) -> State:
        x = self._stem(x)
        return x, self.global_tokens.to(x.dtype).expand(x.shape[0], -1, -1)

    def _map(self, state: State, stage: int, images: Tensor) -> Tensor:
        return state[0]

    def _finish(self, state: State) -> Tensor:
        return self.norm(state[0])

    def forward_features(self, x: Tensor) -> Tensor:
        """`[B, in_chans, H, W]` to the normed final map, in the network's own layout."""
        state = self._embed(x)
        for stage in self.stages:
            state = stage(state)
        return self._finish(state)


OUTPUT_NORMS = OutputNorms(eps=1e-6)


def _resize_grid(x: Tensor, side: int) -> Tensor:
    """Resizes the last axis of `[rows, T]`, a square of positions, bilinearly."""
    old = round(x.shape[-1] ** 0.5)
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (old, old))[None]
    return F.interpolate(wide, (side, side), mode="bilinear", align_corners=False)[0].flatten(1).to(x.dtype)


def checkpoint_filter_fn(state_dict: Dict[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """A state dict of ours, bare or wrapped; global tokens of another grid are resized, output norms are dropped."""
    rules = [(r"^head\.(weight|bias)$", r"head.fc.\1")]
    weights = _checkpoint.rename(_checkpoint.unwrap(state_dict), rules, drop=OUTPUT_NORMS.names)
    side = round(model.global_tokens.shape[1] ** 0.5)
    tokens = weights.get("global_tokens")
    if tokens is None or tokens.shape[1] == side * side:
        return weights
    weights["global_tokens"] = _resize_grid(tokens[0].T, side).T[None]
    for name, value in weights.items():
        if name.endswith("token_fc.weight"):
            weights[name] = _resize_grid(_resize_grid(value, side).T, side).T
        elif name.endswith("token_fc.bias"):
            weights[name] = _resize_grid(value[None], side)[0]
    return weights


_cfg = partial(
    imagenet_cfg,
    url="",  # a definition, not the authors' weights
    reduction=32,
    first_conv="stem.conv1",
    license="apache-2.0",
    origin_url="https://arxiv.org/abs/2309.12424",
    paper_ids="arXiv:2309.12424",
    paper_name="DualToken-ViT: Position-aware Efficient Vision Transformer with Dual Token Fusion",
)
_small = dict(depths=(2, 6, 6), dims=(64, 128, 256))
VARIANTS = {
    "dualtoken_vit_mini": dict(depths=(2, 6, 3), dims=(32, 96, 256)),
    "dualtoken_vit_small": _small,
    "dualtoken_vit_small_normal": dict(_small, token_mlp="normal"),
    "dualtoken_vit_test": dict(depths=(1, 2, 1), dims=(32, 64, 96), conv_ratio=2.0),
}
default_cfgs = generate_default_cfgs({name: _cfg() for name in VARIANTS})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> DualTokenViT:
    return build_model_with_cfg(
        DualTokenViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2), feature_cls="getter"),
        **kwargs,
    )


register_variants(__name__, _create, VARIANTS)
