"""Linear attention with a convolution of the values: FLatten's focused features, and LiT's plain ReLU."""

from __future__ import annotations

from typing import Optional, Sequence

from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators, reference
from visionattn.ops.linear_attention import linear_attention

__all__ = ["convolve_values", "focused_features", "focused_linear_attention", "lit_attention"]


def convolve_values(
    value: Tensor, weight: Tensor, bias: Optional[Tensor], size: Sequence[int], num_prefix: int = 0
) -> Tensor:
    """Depthwise convolution of values on their grid, zero for the tokens before it.

    Args:
        value: `[batch, heads, num_prefix + height * width, head_dim]`.
        weight: Filters of odd size, `[head_dim, 1, K, K]` shared by the heads or `[heads * head_dim, 1, K, K]`.
        bias: `[head_dim]` or `[heads * head_dim]` as `weight`, or None.
        size: Height and width of the grid.
        num_prefix: Tokens before those of the grid.

    Returns:
        Shape and dtype of `value`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes or values that do not fit.
    """
    check.check_tensor("value", value, 4)
    check.check_tensor("weight", weight, 4)
    height, width = check_grid(value, size, num_prefix)
    _, heads, _, dim = value.shape
    kernel = weight.shape[-1]
    if weight.shape[0] not in (dim, heads * dim) or weight.shape[1:3] != (1, kernel) or kernel % 2 == 0:
        wanted = f"[{dim} or {heads * dim}, 1, K, K] with an odd K"
        raise ValueError(f"weight must have shape {wanted}, got {list(weight.shape)}")
    if bias is not None:
        check.check_shape("bias", bias, [weight.shape[0]], "[channels of weight]")
    return reference.convolve_values(value, weight, bias, height, width, num_prefix)


def lit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    size: Sequence[int],
    num_prefix: int = 0,
    eps: float = 1e-6,
    *,
    backend: str = "auto",
) -> Tensor:
    """`relu(q) (relu(K)^T V) / (relu(q) sum relu(k) + eps)` plus a depthwise convolution of the values.

    A query without a positive component gets the convolution alone.

    Args:
        query: `[batch, heads, num_prefix + height * width, head_dim]`.
        key: Like `query`.
        value: `[batch, heads, num_prefix + height * width, value_dim]`.
        weight: Filters, see `convolve_values`.
        bias: Of the convolution, or None.
        size: Height and width of the grid.
        num_prefix: Tokens before those of the grid: they take part in the sums, not in the convolution.
        eps: Added to the normaliser.
        backend: As in `linear_attention`.

    Returns:
        `[batch, heads, num_prefix + height * width, value_dim]` in the dtype of `query`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `linear_attention` and `convolve_values`.

    Source: LiT: Delving into a Simple Linear Diffusion Transformer for Image Generation (Wang et al., ICCV 2025,
    arXiv:2501.12976). The layout of the filters and `eps` are read into it.
    """
    out = linear_attention(query, key, value, "relu", eps, backend=backend)
    return out + convolve_values(value, weight, bias, size, num_prefix).to(out.dtype)


def focused_features(x: Tensor, scale: Tensor, power: int = 3) -> Tensor:
    """`f^p |f| / |f^p|` of `f = (relu(x) + 1e-6) / scale`, norms over all heads: features that point more sharply.

    Args:
        x: `[batch, heads, tokens, head_dim]`, any floating dtype.
        scale: Positive, `[heads * head_dim]`.
        power: Exponent `p`.

    Returns:
        `[batch, heads, tokens, head_dim]`, float32 (float64 for float64).

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes or values that do not fit.

    Source: FLatten Transformer (Han et al., ICCV 2023, arXiv:2308.00442), equations 5-6.
    """
    check.check_tensor("x", x, 4)
    check.check_tensor("scale", scale)
    check.check_shape("scale", scale, [x.shape[1] * x.shape[3]], "[heads * head_dim]")
    if isinstance(power, bool) or not isinstance(power, int) or power < 1:
        raise ValueError(f"power must be an int of at least 1, got {power!r}")
    with _operators.without_autocast(x.device.type):
        return reference.focused_features(x, scale, power)


def focused_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    size: Sequence[int],
    num_prefix: int = 0,
    power: int = 3,
    eps: float = 1e-6,
    *,
    backend: str = "auto",
) -> Tensor:
    """Linear attention over `focused_features`, with `eps` per key in the normaliser, plus a convolution of the values.

    Args:
        query: `[batch, heads, num_prefix + height * width, head_dim]`.
        key: Like `query`, with position embeddings added.
        value: `[batch, heads, num_prefix + height * width, value_dim]`.
        scale: `[heads * head_dim]`, see `focused_features`.
        weight: Filters, see `convolve_values`.
        bias: Of the convolution, or None.
        size: Height and width of the grid.
        num_prefix: Tokens before those of the grid (the released code has none): they are not convolved.
        power: Exponent of the features.
        eps: Added to the normaliser, for each key.
        backend: As in `linear_attention`.

    Returns:
        `[batch, heads, num_prefix + height * width, value_dim]` in the dtype of `value`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `linear_attention` and `convolve_values`.

    Source: FLatten Transformer (Han et al., ICCV 2023, arXiv:2308.00442), and its released code.
    """
    q, k = focused_features(query, scale, power), focused_features(key, scale, power)
    local = convolve_values(value, weight, bias, size, num_prefix)
    with _operators.without_autocast(value.device.type):
        out = linear_attention(q, k, value.to(q.dtype), "identity", eps * key.shape[2], backend=backend)
    return out.to(local.dtype) + local


def check_grid(x: Tensor, size: Sequence[int], num_prefix: int) -> list[int]:
    """`size` as two ints that, with `num_prefix`, make up the tokens of `x` `[batch, heads, tokens, head_dim]`."""
    if isinstance(num_prefix, bool) or not isinstance(num_prefix, int) or num_prefix < 0:
        raise ValueError(f"num_prefix must be an int of at least 0, got {num_prefix!r}")
    height, width = check.per_axis("size", size, 2, int)
    if height < 1 or width < 1 or num_prefix + height * width != x.shape[2]:
        raise ValueError(
            f"size must be that of a grid of {x.shape[2]} - num_prefix = {x.shape[2] - num_prefix} tokens, "
            f"got {height} x {width}"
        )
    return [height, width]
