"""Attention without softmax: the Gaussian kernel between tokens, factored through a few landmarks (SOFT, SOFT++)."""

from __future__ import annotations

from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators, reference
from visionattn.ops.newton_inverse import check_method, newton_inverse

__all__ = ["gaussian_attention", "gaussian_kernel"]


def gaussian_kernel(query: Tensor, key: Tensor) -> Tensor:
    """`exp(-|q - k|^2 / 2)` of every query with every key; the distance alone is minus twice its logarithm.

    Args:
        query: `[..., N, d]`, any floating dtype; half precision is computed in float32.
        key: `[..., M, d]`, of the dtype and device of `query`.

    Returns:
        `[..., N, M]` in the dtype of `query`.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: shapes or devices that do not fit.

    Source: SOFT (Lu et al., NeurIPS 2021, arXiv:2110.11945), equation 3.
    """
    check.check_tensor("query", query)
    if query.dim() < 2:
        raise ValueError(f"query must have shape [..., N, d], got {list(query.shape)}")
    check.check_tensor("key", key, query.dim(), like=query)
    check.check_shape("key", key, [*query.shape[:-2], None, query.shape[-1]], "[..., M, d]")
    with _operators.without_autocast(query.device.type):
        return reference.gaussian_kernel(query, key)


def gaussian_attention(
    query: Tensor,
    landmarks: Tensor,
    value: Tensor,
    method: str = "damped",
    max_iter: int = 20,
    normalize: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """`K inverse(K_l) K^T value` with the kernels `K` of queries with landmarks and `K_l` of landmarks.

    It approximates `exp(-|q_i - q_j|^2 / 2) value` (keys are queries) at a cost linear in tokens for a fixed number of
    landmarks. Distances, exponentials and the inverse are computed in float32 (float64 for float64), also under
    autocast.

    Args:
        query: `[batch, heads, N, d]`; SOFT divides its projection by `head_dim ** 0.25` before.
        landmarks: `[batch, heads, m, d]`.
        value: `[batch, heads, N, d_value]`.
        method: `"damped"` or `"global"`, see `newton_inverse`.
        max_iter: Iterations of the inverse.
        normalize: Whether to scale the inverse by the landmarks' degrees, as SOFT++ does.
        backend: Of the inverse, see `newton_inverse`.

    Returns:
        `[batch, heads, N, d_value]` in the dtype of `query`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit.

    Sources: SOFT (Lu et al., NeurIPS 2021, arXiv:2110.11945), equations 3-8; Softmax-free Linear Transformers (Lu et
    al., IJCV 2024, arXiv:2207.03341).
    """
    check.check_tensor("query", query, 4)
    if _operators.is_autocast_enabled(query.device.type):
        query, landmarks, value = _operators.autocast(query.device.type, (query, landmarks, value))
    check.check_tensor("landmarks", landmarks, 4, like=query)
    check.check_tensor("value", value, 4, like=query)
    batch, heads, tokens, dim = query.shape
    check.check_shape("landmarks", landmarks, [batch, heads, None, dim], "[batch, heads, m, d]")
    check.check_shape("value", value, [batch, heads, tokens, None], "[batch, heads, N, d_value]")
    check_method(method, max_iter)
    with _operators.without_autocast(query.device.type):
        wide = _operators.accumulator(query.dtype)
        landmarks = landmarks.to(wide)
        kernel = reference.gaussian_kernel(query.to(wide), landmarks)
        inverse = newton_inverse(
            reference.gaussian_kernel(landmarks, landmarks), method, max_iter, normalize, backend=backend
        )
        return (kernel @ (inverse @ (kernel.transpose(-2, -1) @ value.to(wide)))).to(query.dtype)
