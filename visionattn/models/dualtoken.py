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
from typing import Any, Callable, Dict, Optional, Sequence, Set, Tuple, Union

import torch
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    DropPath,
    LayerNorm,
    calculate_drop_path_rates,
    get_act_layer,
    get_norm_layer,
    register_notrace_function,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs
from torch import Tensor, nn

from visionattn.models import _checkpoint
from visionattn.models._backbone import Backbone
from visionattn.models._family import OutputNorms
from visionattn.models._inputs import pad_to_multiple
from visionattn.models._variants import imagenet_cfg, register_variants
from visionattn.utils.fuse import fold_batch_norm

__all__ = ["DualTokenViT", "checkpoint_filter_fn"]

LayerType = Union[str, Callable[..., nn.Module]]
State = Tuple[Tensor, Tensor]  # image tokens [B, H, W, C] and global tokens [B, T, C]
HEAD_DIM = 32


@register_notrace_function  # compares sizes, which a symbolic trace can't
def to_grid(x: Tensor, side: int) -> Tensor:
    """`[B, H, W, C]` to `[B, side, side, C]`: average pooling by a whole factor, then bilinear resizing."""
    height, width = x.shape[1], x.shape[2]
    if height == side and width == side:
        return x
    x = x.permute(0, 3, 1, 2)
    rows, columns = max(1, height // side), max(1, width // side)
    if rows > 1 or columns > 1:
        x = F.avg_pool2d(x, [rows, columns], [rows, columns], ceil_mode=True, count_include_pad=False)
    if x.shape[2] != side or x.shape[3] != side:
        x = F.interpolate(x, [side, side], mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Softmax attention of `[B, N, C]` over `[B, M, C]`; a head has consecutive channels."""
    query, key, value = [x.unflatten(2, [num_heads, -1]).transpose(1, 2) for x in (query, key, value)]
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Stem(nn.Module):
    """LightViT's stem of stride 8: `[B, C, H, W]` to `[B, H / 8, W / 8, dim]`, rounded up."""

    def __init__(self, in_chans: int, dim: int, act: nn.Module, norm_layer: Callable, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        width = dim // 2
        for i, stride in enumerate((2, 1, 1, 2), 1):
            inner, groups = (in_chans, 1) if i == 1 else (width, width)
            setattr(self, f"conv{i}", nn.Conv2d(inner, width, 3, stride, 1, groups=groups, bias=False, **dd))
            setattr(self, f"bn{i}", nn.BatchNorm2d(width, **dd))
        self.proj = nn.Conv2d(width, dim, 3, 2, 1, **dd)
        self.norm = norm_layer(dim, **dd)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        x = self.act(self.bn3(self.conv3(x)))
        x = self.act(self.bn4(self.conv4(x)))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))

    def fuse(self) -> nn.Module:
        """Folds the batch norms into the convolutions; see `visionattn.fuse`."""
        for i in range(1, 5):
            fold_batch_norm(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"))
            setattr(self, f"bn{i}", nn.Identity())
        return self


class PatchMerge(nn.Module):
    """LightViT's merging of 2x2 image tokens with a shortcut, and a projection of the global tokens."""

    def __init__(self, dim: int, out_dim: int, norm_layer: Callable, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm = norm_layer(4 * dim, **dd)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False, **dd)
        self.shortcut = nn.Linear(dim, out_dim, bias=False, **dd)
        self.token_norm = norm_layer(dim, **dd)
        self.token_proj = nn.Linear(dim, out_dim, bias=False, **dd)

    def forward(self, state: State) -> State:
        x, tokens = state
        x = pad_to_multiple(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        shortcut = self.shortcut(torch.stack(parts).amax(0))
        x = self.reduction(self.norm(torch.cat(parts, dim=-1))) + shortcut
        return x, self.token_proj(self.token_norm(tokens))


class ConvEncoder(nn.Module):
    """Depthwise 7x7 convolution, norm and MLP, as in ConvNeXt: `[B, H, W, C]` to the same, without the residual."""

    def __init__(self, dim: int, ratio: float, act: nn.Module, norm_layer: Callable, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim, **dd)
        self.norm = norm_layer(dim, **dd)
        self.pwconv1 = nn.Linear(dim, int(ratio * dim), **dd)
        self.act = act
        self.pwconv2 = nn.Linear(int(ratio * dim), dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.pwconv2(self.act(self.pwconv1(self.norm(x))))


class HalvingStep(nn.Module):
    """Residual convolution, then 2x2 average pooling: `[B, S, S, C]` to `[B, S / 2, S / 2, C]`."""

    def __init__(self, dim: int, act: nn.Module, norm_layer: Callable, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.norm = norm_layer(dim, **dd)
        self.act = act
        self.pwconv = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.pwconv(self.act(self.norm(y)))
        return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class MixMlp(nn.Module):
    """A linear layer over tokens, activation, a linear layer over channels: `[B, T, C]` to the same."""

    def __init__(self, tokens: int, dim: int, act: nn.Module, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.token_fc = nn.Linear(tokens, tokens, **dd)
        self.act = act
        self.channel_fc = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_fc(self.act(self.token_fc(x.transpose(1, 2)).transpose(1, 2)))


class ChannelMlp(nn.Module):
    """Two linear layers over channels; with `attn`, the bi-dimensional attention of `[B, N, C]` follows."""

    def __init__(
        self, dim: int, hidden: int, act: nn.Module, attn: Optional[nn.Module] = None, device=None, dtype=None
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.act = act
        self.fc2 = nn.Linear(hidden, dim, **dd)
        self.attn = nn.Identity() if attn is None else attn

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.fc2(self.act(self.fc1(x))))


class BiDimAttention(nn.Module):
    """LightViT's gates per channel (from the mean token) and per token: `[B, N, C]` to the same."""

    def __init__(self, dim: int, act: nn.Module, norm_layer: Callable, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm = norm_layer(dim, **dd)
        self.global_reduce = nn.Linear(dim, dim // 4, **dd)
        self.local_reduce = nn.Linear(dim, dim // 4, **dd)
        self.act = act
        self.channel_select = nn.Linear(dim // 4, dim, **dd)
        self.spatial_select = nn.Linear(dim // 2, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        mean = self.act(self.global_reduce(y.mean(1, keepdim=True)))
        local = self.act(self.local_reduce(y))
        spatial = self.spatial_select(torch.cat([local, mean.expand(-1, local.shape[1], -1)], dim=-1))
        return x * self.channel_select(mean).sigmoid() * spatial.sigmoid()


class TokenModule(nn.Module):
    """Position-aware global tokens: aggregates a map, mixes it into the global tokens, and lets the map read them.

    Takes local tokens `[B, H, W, C]` and global tokens `[B, grid * grid, C]`; gives what the map reads and the global
    tokens to go on with.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: int,
        steps: int,
        token_mlp: str,
        alpha: float,
        act: nn.Module,
        norm_layer: Callable[..., nn.Module],
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.num_heads = num_heads
        self.side = grid * 2**steps
        self.alpha = alpha
        self.down = nn.Sequential(*(HalvingStep(dim, act, norm_layer, **dd) for _ in range(steps)))
        self.agg_norm = norm_layer(dim, **dd)
        self.agg_qkv = nn.Linear(dim, 3 * dim, **dd)
        self.token_norm = norm_layer(dim, **dd)
        self.token_mlp = MixMlp(grid**2, dim, act, **dd) if token_mlp == "mix" else ChannelMlp(dim, dim, act, **dd)
        self.kv_norm = norm_layer(dim, **dd)
        self.kv = nn.Linear(dim, 2 * dim, **dd)
        self.q_norm = norm_layer(dim, **dd)
        self.q = nn.Linear(dim, dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor, tokens: Tensor) -> State:
        map = self.down(to_grid(x, self.side)).flatten(1, 2)
        query, key, value = self.agg_qkv(self.agg_norm(map)).chunk(3, dim=-1)
        aggregated = attend(query, key, value, self.num_heads)
        new = self.alpha * self.token_mlp(self.token_norm(tokens)) + (1 - self.alpha) * aggregated
        key, value = self.kv(self.kv_norm(new)).chunk(2, dim=-1)
        query = self.q(self.q_norm(x)).flatten(1, 2)
        return self.proj(attend(query, key, value, self.num_heads)).reshape(x.shape), tokens + new


class DualTokenBlock(nn.Module):
    """Local tokens by convolution, global tokens by attention, their sum, and a feed-forward layer over both.

    The last block of a network leaves the global tokens out of the feed-forward layer.
    """

    def __init__(
        self,
        dim: int,
        conv_ratio: float,
        mlp_ratio: float,
        ptm: nn.Module,
        act: nn.Module,
        norm_layer: Callable[..., nn.Module],
        drop_path: float = 0.0,
        is_last: bool = False,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.is_last = is_last
        self.local = ConvEncoder(dim, conv_ratio, act, norm_layer, **dd)
        self.ptm = ptm
        self.norm2 = norm_layer(dim, **dd)
        attn = BiDimAttention(dim, act, norm_layer, **dd)
        self.mlp = ChannelMlp(dim, int(mlp_ratio * dim), act, attn, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, state: State) -> State:
        x, tokens = state
        x = x + self.drop_path(self.local(x))
        read, tokens = self.ptm(x, tokens)
        x = x + self.drop_path(read)
        count = 0 if self.is_last else tokens.shape[1]
        both = torch.cat([tokens[:, :count], x.flatten(1, 2)], dim=1)
        both = both + self.drop_path(self.mlp(self.norm2(both)))
        return both[:, count:].reshape(x.shape), tokens if self.is_last else both[:, :count]


class NoMerge(nn.Module):
    """The downsampling of the first stage: none. An Identity takes no pair in TorchScript."""

    def forward(self, state: State) -> State:
        return state


class DualStage(nn.Module):
    """Patch merging, then blocks, on image and global tokens."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, state: State) -> State:
        state = self.downsample(state)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                state = checkpoint(block, state)
            else:
                state = block(state)
        return state


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
