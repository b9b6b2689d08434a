"""SiT with attentive convolution: a diffusion transformer whose blocks mix tokens by ATConv, attention, or both.

It predicts the velocity of latent images; it is no classifier and so is not registered with timm. Parameter names are
those of the released code.

Sources: SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers (Ma et al.,
ECCV 2024, arXiv:2401.08740); its blocks are DiT's (Peebles and Xie, ICCV 2023); Attentive Convolution
(arXiv:2510.20092) for the token mixer.
"""

import math
from typing import Dict, Tuple

import torch
from timm.layers import Mlp, PatchEmbed
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from visionattn.layers.attentive_conv import AttentiveConv

__all__ = ["SIZES", "DiffusionBlock", "SiT"]

SIZES: Dict[str, Dict[str, int]] = {
    "S": dict(depth=12, dim=384, num_heads=6),
    "B": dict(depth=12, dim=768, num_heads=12),
    "L": dict(depth=24, dim=1024, num_heads=16),
    "XL": dict(depth=28, dim=1152, num_heads=16),
}
MIXERS = ("atconv", "hybrid", "attention")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`[B, N, C]`, scaled and shifted by `[B, C]`."""
    return x * (1 + scale[:, None]) + shift[:, None]


class DiffusionBlock(nn.Module):
    """Token mixer and MLP, each between a norm that the condition modulates and a gate that it sets (adaLN-Zero).

    Args:
        dim: Channels.
        num_heads: Heads, where the mixer is attention.
        atconv: Whether the mixer is attentive convolution.
        activation: Of attentive convolution: "gelu_tanh" in SiT, "silu" in REPA.
    """

    def __init__(self, dim: int, num_heads: int, atconv: bool, activation: str = "gelu_tanh"):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn = AttentiveConv(dim, 3, activation) if atconv else Attention(dim, num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim, act_layer=lambda: nn.GELU(approximate="tanh"))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.atconv = atconv

    def forward(self, x: Tensor, condition: Tensor, size: Tuple[int, int]) -> Tensor:
        """`x` `[B, H * W, dim]`, `condition` `[B, dim]`, `size` `(H, W)` to the shape of `x`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=1)
        y = modulate(self.norm1(x), shift1, scale1)
        x = x + gate1[:, None] * (self.attn(y, size) if self.atconv else self.attn(y))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class TimeEmbedding(nn.Module):
    """Times `[B]` to `[B, dim]`: cosines and sines at 128 frequencies in float32, then an MLP."""

    def __init__(self, dim: int, frequencies: int = 128):
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        steps = torch.arange(self.frequencies, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(10000) / self.frequencies * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1).to(self.mlp[0].weight.dtype))


class ClassEmbedding(nn.Module):
    """Classes `[B]` to `[B, dim]`; with dropout there is a further class, "none", that training puts in at random."""

    def __init__(self, num_classes: int, dim: int, dropout: float):
        super().__init__()
        self.num_classes = num_classes
        self.dropout = dropout
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), dim)

    def forward(self, y: Tensor) -> Tensor:
        if self.training and self.dropout > 0:
            y = torch.where(torch.rand(y.shape, device=y.device) < self.dropout, self.num_classes, y)
        return self.embedding_table(y)


class FinalLayer(nn.Module):
    """Modulated norm and projection to the pixels of a patch."""

    def __init__(self, dim: int, out_features: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.linear(modulate(self.norm_final(x), *self.adaLN_modulation(condition).chunk(2, dim=1)))


def sincos_positions(dim: int, side: int) -> Tensor:
    """MAE's position embeddings of a square map, `[1, side * side, dim]`: sines and cosines of column, then of row."""
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    table = torch.cat([axis.expand(side, -1, -1), axis[:, None].expand(-1, side, -1)], dim=2)
    return table.flatten(0, 1)[None].float()


class SiT(nn.Module):
    """Velocity of noisy latents, given the time and a class.

    Args:
        input_size: Side of the latents. Without attention latents of any other size are taken, too.
        patch_size: Side of the patches that are tokens.
        in_channels: Channels of the latents.
        dim: Channels of the tokens.
        depth: Blocks.
        num_heads: Heads of the blocks with attention.
        mixer: "atconv", "attention", or "hybrid": attention in even blocks (from 0), attentive convolution in odd ones.
            With attention there are frozen position embeddings.
        activation: Of attentive convolution; "silu" in REPA's code.
        num_classes: Classes.
        class_dropout_prob: How often training leaves the class out, for classifier-free guidance; 0: there is no class
            "none".
        learn_sigma: Whether the network has a second output per channel, which is not returned.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        dim: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mixer: str = "atconv",
        activation: str = "gelu_tanh",
        num_classes: int = 1000,
        class_dropout_prob: float = 0.1,
        learn_sigma: bool = True,
    ):
        super().__init__()
        if mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(map(repr, MIXERS))}, got {mixer!r}")
        if input_size % patch_size or dim % 4:
            raise ValueError(
                f"input_size must be a multiple of patch_size and dim of 4, got {input_size}, {patch_size} and {dim}"
            )
        self.patch_size, self.in_channels, self.learn_sigma = patch_size, in_channels, learn_sigma
        self.x_embedder = PatchEmbed(None, patch_size, in_channels, dim)
        self.t_embedder = TimeEmbedding(dim)
        self.y_embedder = ClassEmbedding(num_classes, dim, class_dropout_prob)
        if mixer == "atconv":
            self.register_parameter("pos_embed", None)
        else:
            self.pos_embed = nn.Parameter(sincos_positions(dim, input_size // patch_size), requires_grad=False)
        self.blocks = nn.ModuleList(
            DiffusionBlock(dim, num_heads, mixer == "atconv" or (mixer == "hybrid" and i % 2 == 1), activation)
            for i in range(depth)
        )
        self.final_layer = FinalLayer(dim, patch_size**2 * in_channels * (1 + learn_sigma))
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform linears; nothing passes a block or the final layer at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        for weight in (self.y_embedder.embedding_table.weight, *(self.t_embedder.mlp[i].weight for i in (0, 2))):
            nn.init.normal_(weight, std=0.02)
        for layer in (*(m.adaLN_modulation[1] for m in (*self.blocks, self.final_layer)), self.final_layer.linear):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Velocity at `x` `[B, in_channels, H, W]`, at times `t` `[B]` in [0, 1], for classes `y` `[B]`."""
        size = (x.shape[2] // self.patch_size, x.shape[3] // self.patch_size)
        tokens = self.x_embedder(x)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        condition = self.t_embedder(t) + self.y_embedder(y)
        for block in self.blocks:
            tokens = block(tokens, condition, size)
        patches = self.final_layer(tokens, condition).unflatten(2, (self.patch_size, self.patch_size, -1))
        out = patches.unflatten(1, size).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return out[:, : self.in_channels]
