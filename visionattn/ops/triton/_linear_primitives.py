"""What the kernels of linear attention are made of."""

import triton
import triton.language as tl

__all__ = [
    "dot",
    "feature",
    "feature_gradient",
    "fold",
    "inside",
    "matrix",
    "mean_of_queries",
    "normalize",
    "phases",
    "rotate",
    "rotate_back",
    "store",
    "tile",
    "vector",
]


@triton.jit
def feature(x, FEATURE: tl.constexpr):
    if FEATURE == "elu":
        x = tl.exp(tl.minimum(x, 0.0)) + tl.maximum(x, 0.0)
    elif FEATURE == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def feature_gradient(feature, grad, FEATURE: tl.constexpr):
    """The gradient of `x` from that of its feature; the feature itself says how steep the map is there."""
    if FEATURE == "elu":
        grad = grad * tl.minimum(feature, 1.0)
    elif FEATURE == "relu":
        grad = tl.where(feature > 0, grad, 0.0)
    return grad


@triton.jit
def tile(pointer, tokens, channels, stride_n, stride_d, count, DIM: tl.constexpr, FEATURE: tl.constexpr):
    """Rows of a `[tokens, DIM]` slice as they are stored; outside it what has no feature."""
    mask = inside(tokens, channels, count, DIM)
    offsets = tokens.to(tl.int64)[:, None] * stride_n + channels[None, :] * stride_d
    return tl.load(pointer + offsets, mask=mask, other=float("-inf") if FEATURE == "elu" else 0.0)


@triton.jit
def inside(tokens, channels, count, DIM: tl.constexpr):
    mask = (tokens < count)[:, None]
    if channels.shape[0] != DIM:
        mask = mask & (channels < DIM)[None, :]
    return mask


@triton.jit
def fold(x, ROWS: tl.constexpr):
    """Adds up rows that one thread holds; the rest of a sum over rows is done once, after the loop."""
    return tl.sum(tl.reshape(x, (x.shape[0] // ROWS, ROWS, x.shape[1])), 0)


@triton.jit
def store(pointer, tokens, channels, stride_n, stride_d, count, x, DIM: tl.constexpr):
    mask = inside(tokens, channels, count, DIM)
    offsets = tokens.to(tl.int64)[:, None] * stride_n + channels[None, :] * stride_d
    tl.store(pointer + offsets, x.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def matrix(row, features, channels, DK: tl.constexpr, DV: tl.constexpr):
    """`S` or its gradient out of a row, zero outside."""
    mask = (features < DK)[:, None] & (channels < DV)[None, :]
    return tl.load(row + features[:, None] * DV + channels[None, :], mask=mask, other=0.0)


@triton.jit
def vector(row, slot: tl.constexpr, index, DIM: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr):
    return tl.load(row + DK * DV + slot * SPAN + index, mask=index < DIM, other=0.0)


@triton.jit
def phases(table, tokens, channels, count, width, positions, DIM: tl.constexpr):
    """Sine and cosine `[tokens, DIM]` from a table `[2, positions, DIM / 2]`."""
    mask = inside(tokens, channels, count, DIM)
    half: tl.constexpr = DIM // 2
    row = tokens // width
    column = tokens - row * width
    second = (channels >= half)[None, :]
    index = tl.where(second, column[:, None], row[:, None]) * half + tl.where(
        second, channels[None, :] - half, channels[None, :]
    )
    sin = tl.load(table + index, mask=mask, other=0.0)
    return sin, tl.load(table + positions * half + index, mask=mask, other=0.0)


@triton.jit
def rotate(x, sin, cos):
    rows: tl.constexpr = x.shape[0]
    width: tl.constexpr = x.shape[1]
    even, odd = tl.split(tl.reshape(x, (rows, width // 2, 2)))
    return x * cos + tl.reshape(tl.join(-odd, even), (rows, width)) * sin


@triton.jit
def rotate_back(x, sin, cos):
    """The transpose of `rotate`, for gradients."""
    rows: tl.constexpr = x.shape[0]
    width: tl.constexpr = x.shape[1]
    even, odd = tl.split(tl.reshape(x * sin, (rows, width // 2, 2)))
    return x * cos + tl.reshape(tl.join(odd, -even), (rows, width))


@triton.jit
def dot(x, y, PRECISION: tl.constexpr):
    """`x @ y` in float32, of float32 operands or of tiles as they are stored.

    "bf16x3" takes operands apart into two bfloat16 each where they are not bfloat16 already.
    """
    if PRECISION == "tf32x3":
        return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="tf32x3")
    high_x = x.to(tl.bfloat16)
    high_y = y.to(tl.bfloat16)
    product = tl.dot(high_x, high_y)
    if PRECISION == "bf16x3":
        if x.dtype != tl.bfloat16:
            product = tl.dot((x.to(tl.float32) - high_x.to(tl.float32)).to(tl.bfloat16), high_y, product)
        if y.dtype != tl.bfloat16:
            product = tl.dot(high_x, (y.to(tl.float32) - high_y.to(tl.float32)).to(tl.bfloat16), product)
    return product


@triton.jit
def normalize(u, n, mean_value, factor, eps, NORM: tl.constexpr):
    """The output from `u` and `n`."""
    if NORM == "divide":
        out = u / (n + eps)[:, None]
    elif NORM == "clamp":
        out = u * (factor / tl.maximum(n, eps))[:, None]
    else:
        out = u * (1.0 + 1.0 / (n + eps))[:, None] - n[:, None] * mean_value[None, :]
    return out


@triton.jit
def mean_of_queries(sums, z, features, splits, scale, DK: tl.constexpr, SPLITS: tl.constexpr):
    """The sum over all splits of what `prepare` or `key_backward` left, scaled."""
    every = tl.arange(0, SPLITS)
    known = (every < splits)[:, None] & (features < DK)[None, :]
    parts = tl.load(sums + (z * splits + every)[:, None] * DK + features[None, :], mask=known, other=0.0)
    return tl.sum(parts, 0) * scale
