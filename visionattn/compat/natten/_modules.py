"""`NeighborhoodAttention{1,2,3}D` with the constructor arguments, defaults and padding of each NATTEN generation.

| generation | first argument | fourth | relative bias | map smaller than the window |
|---|---|---|---|---|
| 0.14, 0.15 | `dim` | `dilation` | on unless `bias=False` | padded with zeros |
| 0.17 | `dim` | `dilation` | off unless `rel_pos_bias=True` | error |
| 0.20, 0.21 | `embed_dim` | `stride` | none | error |
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from torch import Tensor

from visionattn import layers
from visionattn.compat.natten import _tuning
from visionattn.compat.natten._neighborhood import Bools, Ints


def natten_0_14(
    dim: int,
    num_heads: int,
    kernel_size: Ints,
    dilation: Ints = 1,
    bias: bool = True,
    qkv_bias: bool = True,
    qk_scale: Optional[float] = None,
    attn_drop: float = 0.0,
    proj_drop: float = 0.0,
) -> dict[str, Any]:
    settings = natten_0_17(dim, num_heads, kernel_size, dilation, False, bias, qkv_bias, qk_scale, attn_drop, proj_drop)
    return {**settings, "padding": "zero"}


def natten_0_17(
    dim: int,
    num_heads: int,
    kernel_size: Ints,
    dilation: Ints = 1,
    is_causal: Bools = False,
    rel_pos_bias: bool = False,
    qkv_bias: bool = True,
    qk_scale: Optional[float] = None,
    attn_drop: float = 0.0,
    proj_drop: float = 0.0,
) -> dict[str, Any]:
    settings = natten_0_21(dim, num_heads, kernel_size, 1, dilation, is_causal, qkv_bias, qk_scale, proj_drop)
    return {**settings, "rel_pos_bias": rel_pos_bias, "attn_drop": attn_drop}


def natten_0_21(
    embed_dim: int,
    num_heads: int,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    qkv_bias: bool = True,
    qk_scale: Optional[float] = None,
    proj_drop: float = 0.0,
) -> dict[str, Any]:
    return {
        "dim": embed_dim,
        "num_heads": num_heads,
        "kernel_size": kernel_size,
        "stride": 1 if stride is None else stride,
        "dilation": 1 if dilation is None else dilation,
        "is_causal": False if is_causal is None else is_causal,
        "qkv_bias": qkv_bias,
        "qk_scale": qk_scale,
        "proj_drop": proj_drop,
        "padding": "error",
    }


def natten_any(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Tells the generation from the names of the arguments; 0.21 where they don't say."""
    if {"embed_dim", "stride"} & kwargs.keys():
        return natten_0_21(*args, **kwargs)
    legacy = {"dim", "bias", "attn_drop"} & kwargs.keys()
    if "rel_pos_bias" in kwargs or (legacy and "is_causal" in kwargs):
        return natten_0_17(*args, **kwargs)
    return (natten_0_14 if legacy else natten_0_21)(*args, **kwargs)


_ARGUMENTS = {
    natten_0_14: """dim, num_heads, kernel_size, dilation=1, bias=True, qkv_bias=True, qk_scale=None,
        attn_drop=0, proj_drop=0. A map smaller than `kernel_size * dilation` is padded with zeros, and the padding
        takes part in the attention.""",
    natten_0_17: """dim, num_heads, kernel_size, dilation=1, is_causal=False, rel_pos_bias=False,
        qkv_bias=True, qk_scale=None, attn_drop=0, proj_drop=0. A map smaller than `kernel_size * dilation` is an
        error.""",
    natten_0_21: """embed_dim, num_heads, kernel_size, stride=1, dilation=1, is_causal=False, qkv_bias=True,
        qk_scale=None, proj_drop=0. A map smaller than `kernel_size * dilation` is an error.""",
    natten_any: """those of any generation. `embed_dim` or `stride` mean 0.21; `rel_pos_bias`, or `is_causal`
        beside one of the following, 0.17; `dim`, `bias` or `attn_drop` 0.14; anything else 0.21. To fix the generation,
        import from `visionattn.compat.natten.v0_14`, `.v0_17` or `.v0_21`.""",
}


def neighborhood_module(rank: int, arguments: Callable[..., dict[str, Any]], module: str) -> type:
    """The class `NeighborhoodAttention{rank}D` of a generation.

    Args:
        rank: Number of spatial axes.
        arguments: Maps the generation's constructor arguments to those of `visionattn.layers`.
        module: Python module that the class is defined for.
    """
    name = f"NeighborhoodAttention{rank}D"
    base = getattr(layers, name)

    class Module(base):
        __doc__ = f"""{rank}-D neighborhood attention `[batch, *spatial, dim]` -> the same, with its projections.

    Parameters are `qkv`, `proj` and, with a relative positional bias, `rpb`, as in NATTEN's checkpoints. `forward`
    takes the arguments that choose NATTEN's kernels beside the input: they are checked and have no effect.

    Constructor arguments: {_ARGUMENTS[arguments]}

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
        NotImplementedError: a relative positional bias with a causal axis.
    """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(**arguments(*args, **kwargs))

        def forward(self, x: Tensor, **tuning: Any) -> Tensor:
            _tuning.check_neighborhood(rank, **tuning)
            return super().forward(x)

    Module.__name__ = Module.__qualname__ = name
    Module.__module__ = module
    return Module
