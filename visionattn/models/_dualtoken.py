"""The blocks of DualToken-ViT; `visionattn.models.dualtoken` says which of them are the paper's."""

from typing import Callable, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, register_notrace_function
from timm.models import checkpoint
from torch import Tensor, nn

from visionattn.models._inputs import pad_to_multiple
from visionattn.utils.fuse import fold_batch_norm

__all__ = ["DualStage", "DualTokenBlock", "NoMerge", "PatchMerge", "State", "Stem", "TokenModule"]

State = Tuple[Tensor, Tensor]  # image tokens [B, H, W, C] and global tokens [B, T, C]


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
