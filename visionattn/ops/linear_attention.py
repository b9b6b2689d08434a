"""Linear attention: the cost grows with the number of tokens, not with its square.

Each function maps queries and keys to features, sums keys times values over all tokens once, and reads the sum with
every query. They differ in the features, in a weight per key, and in how the result is normalised. All sums and
quotients are float32 (float64 for float64) whatever the inputs.
"""

from __future__ import annotations

from typing import Optional, Sequence

import torch
from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators
from visionattn.ops._remember import remember
from visionattn.ops._triton import TritonOperator

__all__ = [
    "clamped_linear_attention",
    "linear_attention",
    "magnitude_aware_linear_attention",
    "rank_augmented_linear_attention",
]

FEATURE_MAPS = ("elu", "relu", "identity")
_LARGEST_DIM = 128  # of the kernels


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, feature_map: str = "elu", eps: float = 1e-6, *, backend: str = "auto"
) -> Tensor:
    """`phi(q) (sum_j phi(k_j)^T v_j) / (phi(q) sum_j phi(k_j) + eps)`; logits have no factor.

    Args:
        query: `[batch, heads, tokens, head_dim]`, float16, bfloat16, float32 or float64. Any strides: a slice of a
            packed projection is read in place, channels-first or channels-last.
        key: `[batch, heads, tokens_kv, head_dim]`.
        value: `[batch, heads, tokens_kv, value_dim]`.
        feature_map: `"elu"`: `elu(x) + 1`; `"relu"`; `"identity"`: queries and keys are features already.
        eps: Added to the normaliser.
        backend: `"auto"`: Triton kernels on CUDA for head and value dims up to 128, else plain PyTorch; `"reference"`:
            plain PyTorch, differentiable any number of times; `"triton"`: the kernels or an error.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `query`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit; the message names the argument.
        NotImplementedError: `backend="triton"` where the kernels can't serve; the message says why.

    Source: Katharopoulos et al., Transformers are RNNs (ICML 2020), equations 4-7.
    """
    if feature_map not in FEATURE_MAPS:
        raise ValueError(f"feature_map must be one of {', '.join(map(repr, FEATURE_MAPS))}, got {feature_map!r}")
    query, key, value = checked_tokens(query, key, value)
    return _LINEAR(backend, query, key, value, feature_map, float(eps))


def clamped_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: Tensor, minimum: float = 100.0, *, backend: str = "auto"
) -> Tensor:
    """`scale relu(q) (sum_j relu(k_j)^T v_j) / max(relu(q) sum_j relu(k_j), minimum)`, the attention of L2ViT.

    Where few tokens or small features leave the denominator at `minimum`, the result is not normalised at all.

    Args:
        query: `[batch, heads, tokens, head_dim]`; tensors, dtypes and strides as in `linear_attention`.
        key: `[batch, heads, tokens_kv, head_dim]`.
        value: `[batch, heads, tokens_kv, value_dim]`.
        scale: Learned factor per head, `[heads]`, any floating dtype.
        minimum: Least value of the denominator; where it acts, no gradient passes through the denominator.
        backend: As in `linear_attention`.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `query`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `linear_attention`.

    Source: The Linear Attention Resurrection in Vision Transformer (arXiv:2501.16182).
    """
    query, key, value = checked_tokens(query, key, value)
    check.check_tensor("scale", scale)
    if scale.device != query.device:
        raise ValueError(f"scale must be on the device of query, {query.device}, got {scale.device}")
    check.check_shape("scale", scale, [query.shape[1]], "[heads]")
    scale = scale.to(_operators.accumulator(query.dtype))
    return _CLAMPED(backend, query, key, value, scale, float(minimum))


def rank_augmented_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor] = None,
    size: Optional[Sequence[int]] = None,
    eps: float = 1e-6,
    *,
    backend: str = "auto",
) -> Tensor:
    """Linear attention over keys that are weighted by a softmax of their affinity to the mean query (RALA).

    With `a = elu(q) + 1`, `b = elu(k) + 1`, `R` the rotation of a token and `w = softmax_j(mean(a) b_j / sqrt(d))`:
    `y_i = (R_i a_i) (sum_j w_j (R_j b_j)^T v_j) / (a_i sum_j w_j b_j + eps)`. As in the released models the normaliser
    does not see the rotation.

    Args:
        query: `[batch, heads, tokens, head_dim]`; tensors, dtypes and strides as in `linear_attention`.
        key: Like `query`.
        value: `[batch, heads, tokens, value_dim]`.
        angle: `[head_dim / 2]`, radians per row (first half of the channels) and per column (second half) that
            neighboring channels turn by; None for no rotation. At least float32, and used in its own dtype. Where it
            needs a gradient, plain PyTorch serves.
        size: Height and width of the map that the tokens are, in raster order; needed with `angle`.
        eps: Added to the normaliser.
        backend: As in `linear_attention`.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `query`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `linear_attention`.

    Source: Fan et al., Breaking the Low-Rank Dilemma of Linear Attention (CVPR 2025, arXiv:2411.07635).
    """
    return _rotary_attention(_RANK_AUGMENTED, query, key, value, angle, size, eps, backend)


def magnitude_aware_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor] = None,
    size: Optional[Sequence[int]] = None,
    eps: float = 1e-6,
    *,
    backend: str = "auto",
) -> Tensor:
    """Linear attention whose scores sharpen with the length of the query (MALA).

    With `a = elu(q) + 1`, `b = elu(k) + 1`, `R` the rotation of a token and `z_i = a_i mean(b) / sqrt(d)`:
    `y_i = (1 + 1 / (z_i + eps)) (R_i a_i) (mean_j (R_j b_j)^T v_j) / sqrt(d) - z_i mean(v)`. As in the released models
    `z` does not see the rotation, so scores sum to one only without it.

    Args:
        query: `[batch, heads, tokens, head_dim]`; tensors, dtypes and strides as in `linear_attention`.
        key: Like `query`.
        value: `[batch, heads, tokens, value_dim]`.
        angle: As in `rank_augmented_linear_attention`, and so are the other arguments.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `query`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `linear_attention`.

    Source: Fan et al., Rectifying Magnitude Neglect in Linear Attention (ICCV 2025, arXiv:2507.00698).
    """
    return _rotary_attention(_MAGNITUDE_AWARE, query, key, value, angle, size, eps, backend)


def checked_tokens(
    query: Tensor, key: Tensor, value: Tensor, self_attention: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors in their final dtype, if they fit together."""
    check.check_tensor("query", query, 4)
    if _operators.is_autocast_enabled(query.device.type):
        query, key, value = _operators.autocast(query.device.type, (query, key, value))
    remember(_check_tokens, (query, key, value), (self_attention,))
    return query, key, value


def _check_tokens(query: Tensor, key: Tensor, value: Tensor, self_attention: bool) -> bool:
    check.check_tensor("key", key, 4, like=query)
    check.check_tensor("value", value, 4, like=query)
    batch, heads, tokens, dim = query.shape
    if any(size < 1 for size in query.shape[1:]):
        raise ValueError(f"query must have at least one head, token and channel, got shape {tuple(query.shape)}")
    keys = tokens if self_attention else None
    check.check_shape("key", key, [batch, heads, keys, dim], "[batch, heads, tokens, head_dim]")
    check.check_shape("value", value, [batch, heads, key.shape[2], None], "[batch, heads, tokens, value_dim]")
    if key.shape[2] < 1 or value.shape[3] < 1:
        raise ValueError(f"value must have at least one token and channel, got shape {tuple(value.shape)}")
    return True


def _check_rotation(query: Tensor, angle: Tensor, size: Optional[Sequence[int]]) -> tuple[int, int]:
    check.check_tensor("angle", angle, 1)
    if angle.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"angle must be float32 or float64, half precision confuses positions, got {angle.dtype}")
    if angle.device != query.device:
        raise ValueError(f"angle must be on the device of query, {query.device}, got {angle.device}")
    if query.shape[3] % 4:
        raise ValueError(f"angle needs queries with a head_dim that is a multiple of 4, got {query.shape[3]}")
    check.check_shape("angle", angle, [query.shape[3] // 2], "[head_dim / 2]")
    if size is None:
        raise ValueError("size must be the height and width of the map where angle is given, got None")
    height, width = check.per_axis("size", size, 2, int)
    if height * width != query.shape[2]:
        raise ValueError(f"size must be that of a map of {query.shape[2]} tokens, got {height} x {width}")
    return height, width


def _rotary_attention(
    operator: TritonOperator,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor],
    size: Optional[Sequence[int]],
    eps: float,
    backend: str,
) -> Tensor:
    query, key, value = checked_tokens(query, key, value, self_attention=True)
    height, width = query.shape[2], 1
    if angle is not None:
        height, width = remember(_check_rotation, (query, angle), (size,))
    return operator(backend, query, key, value, angle, height, width, float(eps))


# The operators -------------------------------------------------------------------------------------------------------


def _limits(query: Tensor, key: Tensor, value: Tensor, *rest: object) -> Optional[str]:
    for name, x in (("head_dim", query), ("value_dim", value)):
        if x.shape[-1] > _LARGEST_DIM:
            return f"{name} is {x.shape[-1]}, above {_LARGEST_DIM}"
    return None


def _rotary_limits(query: Tensor, key: Tensor, value: Tensor, angle: Optional[Tensor], *rest: object) -> Optional[str]:
    if angle is not None and angle.requires_grad:
        return "angle needs a gradient"
    return _limits(query, key, value)


def allocate(query: Tensor, value: Tensor, vectors: int) -> tuple[Tensor, Tensor]:
    """An empty output, and what the kernels keep for backward: per batch entry and head one row of float32 for the sum
    of keys times values and for `vectors` vectors besides.
    """
    batch, heads, tokens, dim = query.shape
    value_dim = value.shape[3]
    same = dim == value_dim
    out = torch.empty_like(query) if same else query.new_empty((batch, heads, tokens, value_dim))
    length = dim * value_dim + vectors * max(dim, value_dim, 2)
    return out, query.new_empty((batch * heads, length), dtype=torch.float32)


def _fake(vectors: int):
    return lambda query, key, value, *rest: allocate(query, value, vectors)


_QKV = "Tensor query, Tensor key, Tensor value"
_ROTARY = f"{_QKV}, Tensor? angle, SymInt height, SymInt width, float eps"
_LINEAR = TritonOperator("linear_attention", f"{_QKV}, str feature_map, float eps", _fake(1), 1, _limits)
_CLAMPED = TritonOperator(
    "clamped_linear_attention", f"{_QKV}, Tensor scale, float minimum", _fake(1), 1, _limits, kept=(3,)
)
_ANGLE = dict(reasons=_rotary_limits, kept=(3,), constant=(3,))
_RANK_AUGMENTED = TritonOperator("rank_augmented_linear_attention", _ROTARY, _fake(3), 1, **_ANGLE)
_MAGNITUDE_AWARE = TritonOperator("magnitude_aware_linear_attention", _ROTARY, _fake(2), 1, **_ANGLE)
OPERATORS = (_LINEAR, _CLAMPED, _RANK_AUGMENTED, _MAGNITUDE_AWARE)
