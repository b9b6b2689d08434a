"""Which places of a map the attention looks at: for pictures, and for looking into a model."""

from __future__ import annotations

from typing import List

import torch
from torch import Tensor, nn

from visionattn import ops
from visionattn.layers import NeighborhoodAttention2D
from visionattn.layers.neighborhood_attention import pad_to_window
from visionattn.models.nat_isotropic import RelativeBiasAttention, dense_bias

__all__ = ["attention_layers", "attention_map", "attention_received"]


@torch.no_grad()
def attention_received(layer: nn.Module, x: Tensor) -> Tensor:
    """How much attention every token of a layer's input receives, relative to attention spread evenly over each window.

    1 everywhere means that the layer averages. The comparison with even attention also takes out that tokens at
    borders are in fewer or more windows than others.

    Args:
        layer: A `NeighborhoodAttention2D` (stride 1, not causal) or `RelativeBiasAttention`.
        x: Input of the layer, `[batch, height, width, channels]`.

    Returns:
        `[batch, heads, height, width]` float32.

    Raises:
        TypeError: another kind of layer.
        NotImplementedError: strided or causal windows.
    """
    if isinstance(layer, RelativeBiasAttention):
        return _received_globally(layer, x)
    if isinstance(layer, NeighborhoodAttention2D):
        return _received_in_windows(layer, x)
    raise TypeError(f"layer must be a NeighborhoodAttention2D or RelativeBiasAttention, got {type(layer).__name__}")


def _received_globally(layer: RelativeBiasAttention, x: Tensor) -> Tensor:
    batch, height, width, _ = x.shape
    qkv = layer.qkv(x).reshape(batch, height * width, 3, layer.num_heads, layer.head_dim)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4).float().unbind(0)
    logits = query * layer.head_dim**-0.5 @ key.mT + dense_bias(layer.rpb, height, width).float()
    return logits.softmax(-1).sum(-2).unflatten(-1, (height, width))


def _received_in_windows(layer: NeighborhoodAttention2D, x: Tensor) -> Tensor:
    if max(layer.stride) > 1 or any(layer.is_causal):
        raise NotImplementedError("attention maps of strided or causal windows")
    height, width = x.shape[1:3]
    clip = layer.padding == "masked"
    if layer.padding == "zero":
        x = pad_to_window(x, layer.kernel_size, layer.dilation)
    qkv = layer.qkv(x).unflatten(-1, (3, layer.num_heads, layer.head_dim))
    query, key, _ = qkv.permute(3, 0, 4, 1, 2, 5).float().unbind(0)  # heads first
    rpb = None if layer.rpb is None else layer.rpb.float()
    logits = ops.na2d_qk(query * layer.scale, key, layer.kernel_size, layer.dilation, rpb=rpb, clip_window=clip)
    weights = logits.softmax(-1)
    even = torch.full_like(weights, 1 / weights.shape[-1])
    received, expected = (_scatter(w, key, layer, clip) for w in (weights, even))
    return (received / expected)[..., :height, :width]


def _scatter(weights: Tensor, key: Tensor, layer: NeighborhoodAttention2D, clip: bool) -> Tensor:
    """Sums the weights of all windows by key: the gradient of `sum(av(weights, value))` in `value`."""
    with torch.enable_grad():
        value = torch.zeros_like(key[..., :1]).requires_grad_()
        out = ops.na2d_av(weights, value, layer.kernel_size, layer.dilation, clip_window=clip)
        return torch.autograd.grad(out.sum(), value)[0].squeeze(-1)


def attention_layers(model: nn.Module, stage: int) -> List[nn.Module]:
    """The layers of a stage whose attention `attention_received` can tell.

    Args:
        model: A NAT, DiNAT or isotropic model.
        stage: Index into `model.stages` (or `model.blocks` of an isotropic model); negative ones count from the end.

    Raises:
        ValueError: no such stage, or no such layer in it.
    """
    stages = getattr(model, "stages", None)
    if stages is None:
        stages = getattr(model, "blocks", [])
    if len(stages) == 0:
        raise ValueError(f"{type(model).__name__} has no stages with attention that can be shown")
    if not -len(stages) <= stage < len(stages):
        raise ValueError(f"stage must be in {-len(stages)}..{len(stages) - 1}, got {stage}")
    kinds = (NeighborhoodAttention2D, RelativeBiasAttention)
    layers = [module for module in stages[stage].modules() if isinstance(module, kinds)]
    if not layers:
        raise ValueError(f"stage {stage} of {type(model).__name__} has no attention layer that can be shown")
    return layers


@torch.no_grad()
def attention_map(model: nn.Module, images: Tensor, stage: int = -1) -> Tensor:
    """The attention received per token in one stage of a model, averaged over its heads and layers.

    Args:
        model: A NAT, DiNAT or isotropic model.
        images: `[batch, channels, height, width]`, normalised as the model wants.
        stage: As in `attention_layers`.

    Returns:
        `[batch, map height, map width]` float32; 1 is what even attention would give.

    Raises:
        ValueError: no such stage, or no layer in it whose attention can be shown.
    """
    layers = attention_layers(model, stage)
    maps: List[Tensor] = []

    def note(layer: nn.Module, inputs: tuple) -> None:
        maps.append(attention_received(layer, inputs[0]).mean(1))

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(maps).mean(0)
