"""Folding for inference: what in eval mode is affine goes into the convolution or linear layer beside it."""

import copy
import itertools
from functools import singledispatch
from typing import Optional, Tuple, Union

import torch
from timm.layers import BatchNormAct2d, ConvNormAct, LayerScale, LayerScale2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["batch_norm_affine", "fold", "fold_batch_norm", "fold_layer_scale", "fuse", "scale_inputs", "scale_outputs"]

Layer = Union[nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d]
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference, with batch norms and layer scales folded into convolutions and linear layers.

    Its outputs are those of `model.eval()` up to rounding, for every input. Folded are batch norms that follow a
    convolution, layer scales that follow a projection, and what a block says of itself: a module may have a method
    `fuse()` that returns the module to take its place, and `fold` knows modules of torch and timm.

    Args:
        model: Any model, of ours or of timm; it is not changed.

    Returns:
        The copy, in eval mode. Names of its parameters differ from the model's where something was folded.
    """
    return _fuse(copy.deepcopy(model).eval())


def _fuse(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        fused = _fuse(child)
        if fused is not child:
            module._modules[name] = fused
    return fold(module)


@singledispatch
def fold(module: nn.Module) -> nn.Module:
    """The module to take the place of `module` in eval mode, its children being folded already.

    Register a function for a class that can't have a method `fuse()`.
    """
    return module.fuse() if callable(getattr(module, "fuse", None)) else module


@fold.register
def _(module: nn.Sequential) -> nn.Module:
    names = list(module._modules)
    for name, after in itertools.pairwise(names):
        layer, norm = module._modules[name], module._modules[after]
        if isinstance(layer, _LAYERS) and isinstance(norm, _BatchNorm) and norm.track_running_stats:
            fold_batch_norm(layer, norm)
            module._modules[after] = _activation_of(norm)
    return module


@fold.register
def _(module: ConvNormAct) -> nn.Module:
    if isinstance(module.conv, _LAYERS) and isinstance(module.bn, _BatchNorm) and module.bn.track_running_stats:
        fold_batch_norm(module.conv, module.bn)
        module.bn = _activation_of(module.bn)
    return module


def _activation_of(norm: _BatchNorm) -> nn.Module:
    """What is left of a folded norm: timm's have an activation in them."""
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()


def batch_norm_affine(norm: _BatchNorm) -> Tuple[Tensor, Tensor]:
    """Scale and shift per channel that `norm` amounts to in eval mode."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def fold_batch_norm(layer: Layer, norm: _BatchNorm) -> None:
    """Puts `norm`, which follows `layer`, into it."""
    scale_outputs(layer, *batch_norm_affine(norm))


def fold_layer_scale(layer: Layer, scale: nn.Module) -> nn.Module:
    """Puts `scale`, which follows `layer`, into it if it is a layer scale; returns what is left of it."""
    if not isinstance(scale, (LayerScale, LayerScale2d)):
        return scale
    scale_outputs(layer, scale.gamma.detach())
    return nn.Identity()


def scale_outputs(layer: Layer, scale: Tensor, shift: Optional[Tensor] = None) -> None:
    """Makes `layer` return `scale * layer(x) + shift`, per channel; gives it a bias if it needs one."""
    layer.weight.data *= scale.view(-1, *[1] * (layer.weight.dim() - 1))
    if layer.bias is not None:
        layer.bias.data *= scale
    _add_bias(layer, shift)


def scale_inputs(layer: Layer, scale: Tensor, shift: Tensor) -> None:
    """Makes `layer` return `layer(scale * x + shift)`, per channel of `x`; a linear layer or a 1x1 convolution.

    Raises:
        ValueError: a grouped convolution, or one with a larger kernel: it may pad, and zeros are not shifted.
    """
    if layer.weight[0, 0].numel() != 1 or getattr(layer, "groups", 1) != 1:
        raise ValueError(f"layer must be a linear layer or a 1x1 convolution of one group, got {layer}")
    weight = layer.weight.data.flatten(1)
    _add_bias(layer, weight @ shift)
    layer.weight.data = (weight * scale).view_as(layer.weight)


def _add_bias(layer: Layer, shift: Optional[Tensor]) -> None:
    if shift is None:
        return
    if layer.bias is None:
        layer.bias = nn.Parameter(shift.clone())
    else:
        layer.bias.data += shift
