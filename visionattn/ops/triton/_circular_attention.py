"""The kernels of attention within a disc: flash attention over square tiles of the map.

A program holds a tile of `SIDE` x `SIDE` queries and visits the tiles of keys that its discs reach, then extra keys.
Discs are symmetric, so a tile of keys finds its queries in the same way. Logits are in units of log2.
"""

import triton
import triton.language as tl

__all__ = ["backward_extra", "backward_keys", "backward_queries", "forward"]


@triton.jit
def _positions(tile, columns, SIDE: tl.constexpr):
    """Rows and columns of the positions of a tile."""
    inner = tl.arange(0, SIDE * SIDE)
    return tile // columns * SIDE + inner // SIDE, tile % columns * SIDE + inner % SIDE


@triton.jit
def _load(pointer, y, x, height, width, stride_n, channels, D: tl.constexpr):
    """Positions of a map `[height * width, D]`, zero outside."""
    mask = ((y < height) & (x < width))[:, None] & (channels < D)[None, :]
    offsets = (y * width + x).to(tl.int64)[:, None] * stride_n + channels[None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def _store(pointer, y, x, height, width, stride_n, channels, value, D: tl.constexpr):
    mask = ((y < height) & (x < width))[:, None] & (channels < D)[None, :]
    offsets = (y * width + x).to(tl.int64)[:, None] * stride_n + channels[None, :]
    tl.store(pointer + offsets, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _load_vector(pointer, y, x, height, width):
    return tl.load(pointer + y * width + x, mask=(y < height) & (x < width), other=0.0)


@triton.jit
def _load_extra(pointer, index, count, channels, D: tl.constexpr):
    mask = (index < count)[:, None] & (channels < D)[None, :]
    return tl.load(pointer + index[:, None] * D + channels[None, :], mask=mask, other=0.0)


@triton.jit
def _within(y, x, other_y, other_x, height, width, square):
    """`[queries, keys]`, whether they are less than the radius apart and the keys on the map."""
    dy, dx = y[:, None] - other_y[None, :], x[:, None] - other_x[None, :]
    near = (dy * dy + dx * dx).to(tl.float32) < square
    return near & ((other_y < height) & (other_x < width))[None, :]


@triton.jit
def _reach(apart, square, SIDE: tl.constexpr):
    """Tiles to the left and right that discs reach in a row of tiles `apart` from their own."""
    nearest = tl.maximum(tl.abs(apart) - 1, 0) * SIDE + tl.where(apart == 0, 0, 1)
    rest = square - (nearest * nearest).to(tl.float32)
    furthest = tl.ceil(tl.sqrt(tl.maximum(rest, 0.0))).to(tl.int32)
    return (furthest + SIDE - 1) // SIDE


@triton.jit
def _dot(x, y):
    if x.dtype == tl.float32:
        return tl.dot(x, y, input_precision="tf32x3")
    return tl.dot(x, y)


@triton.jit
def _accumulate(q, k, v, mask, scale, largest, mass, total):
    """One step of the online softmax."""
    logits = tl.where(mask, _dot(q, tl.trans(k)) * scale, float("-inf"))
    new = tl.maximum(largest, tl.max(logits, 1))
    base = tl.where(new == float("-inf"), 0.0, new)  # nothing seen so far
    p = tl.exp2(logits - base[:, None])
    shrink = tl.exp2(largest - base)
    mass = mass * shrink + tl.sum(p, 1)
    total = total * shrink[:, None] + _dot(p.to(v.dtype), v)
    return new, mass, total


@triton.jit
def forward(
    query, qb, qh, qn, key, kb, kh, kn, value, vb, vh, vn, extra_key, extra_value, out, ob, oh, on, lse,
    heads, height, width, rows, columns, extras, square, tiles_away, scale,
    D: tl.constexpr, BD: tl.constexpr, SIDE: tl.constexpr, BE: tl.constexpr,
    EXTRAS: tl.constexpr,
):  # fmt: skip
    """The output and the logarithms (to base 2) of the sums of exponentials."""
    tile, line = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = line // heads, line % heads
    query += batch * qb + head * qh
    key += batch * kb + head * kh
    value += batch * vb + head * vh
    channels = tl.arange(0, BD)
    y, x = _positions(tile, columns, SIDE)
    q = _load(query, y, x, height, width, qn, channels, D)
    largest = tl.full((SIDE * SIDE,), float("-inf"), tl.float32)
    mass = tl.zeros((SIDE * SIDE,), tl.float32)
    total = tl.zeros((SIDE * SIDE, BD), tl.float32)
    row, column = tile // columns, tile % columns
    for i in range(tl.maximum(row - tiles_away, 0), tl.minimum(row + tiles_away + 1, rows)):
        reach = _reach(i - row, square, SIDE)
        for j in range(tl.maximum(column - reach, 0), tl.minimum(column + reach + 1, columns)):
            ky, kx = _positions(i * columns + j, columns, SIDE)
            k = _load(key, ky, kx, height, width, kn, channels, D)
            v = _load(value, ky, kx, height, width, vn, channels, D)
            mask = _within(y, x, ky, kx, height, width, square)
            largest, mass, total = _accumulate(q, k, v, mask, scale, largest, mass, total)
    if EXTRAS:
        for start in range(0, extras, BE):
            index = start + tl.arange(0, BE)
            k = _load_extra(extra_key + line * extras * D, index, extras, channels, D)
            v = _load_extra(extra_value + line * extras * D, index, extras, channels, D)
            mask = (y[:, None] >= 0) & (index < extras)[None, :]
            largest, mass, total = _accumulate(q, k, v, mask, scale, largest, mass, total)
    mass = tl.where(mass == 0.0, 1.0, mass)  # queries of the last tile that are not on the map
    _store(out + batch * ob + head * oh, y, x, height, width, on, channels, total / mass[:, None], D)
    place = lse + line * height * width + y * width + x
    tl.store(place, largest + tl.log2(mass), mask=(y < height) & (x < width))


@triton.jit
def _query_step(q, g, k, v, mask, lse, delta, scale, total):
    p = tl.where(mask, tl.exp2(_dot(q, tl.trans(k)) * scale - lse[:, None]), 0.0)
    ds = p * (_dot(g, tl.trans(v)) - delta[:, None])
    return total + _dot(ds.to(k.dtype), k)


@triton.jit
def backward_queries(
    query, qb, qh, qn, key, kb, kh, kn, value, vb, vh, vn, extra_key, extra_value, out, ob, oh, on,
    grad, gb, gh, gn, lse, delta, grad_query, jb, jh, jn,
    heads, height, width, rows, columns, extras, square, tiles_away, scale, factor,
    D: tl.constexpr, BD: tl.constexpr, SIDE: tl.constexpr, BE: tl.constexpr,
    EXTRAS: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, and `delta`, the products of outputs and their gradients."""
    tile, line = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = line // heads, line % heads
    key += batch * kb + head * kh
    value += batch * vb + head * vh
    channels = tl.arange(0, BD)
    y, x = _positions(tile, columns, SIDE)
    q = _load(query + batch * qb + head * qh, y, x, height, width, qn, channels, D)
    g = _load(grad + batch * gb + head * gh, y, x, height, width, gn, channels, D)
    o = _load(out + batch * ob + head * oh, y, x, height, width, on, channels, D)
    products = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)
    tl.store(delta + line * height * width + y * width + x, products, mask=(y < height) & (x < width))
    sums = _load_vector(lse + line * height * width, y, x, height, width)
    total = tl.zeros((SIDE * SIDE, BD), tl.float32)
    row, column = tile // columns, tile % columns
    for i in range(tl.maximum(row - tiles_away, 0), tl.minimum(row + tiles_away + 1, rows)):
        reach = _reach(i - row, square, SIDE)
        for j in range(tl.maximum(column - reach, 0), tl.minimum(column + reach + 1, columns)):
            ky, kx = _positions(i * columns + j, columns, SIDE)
            k = _load(key, ky, kx, height, width, kn, channels, D)
            v = _load(value, ky, kx, height, width, vn, channels, D)
            mask = _within(y, x, ky, kx, height, width, square)
            total = _query_step(q, g, k, v, mask, sums, products, scale, total)
    if EXTRAS:
        for start in range(0, extras, BE):
            index = start + tl.arange(0, BE)
            k = _load_extra(extra_key + line * extras * D, index, extras, channels, D)
            v = _load_extra(extra_value + line * extras * D, index, extras, channels, D)
            mask = (y[:, None] >= 0) & (index < extras)[None, :]
            total = _query_step(q, g, k, v, mask, sums, products, scale, total)
    _store(grad_query + batch * jb + head * jh, y, x, height, width, jn, channels, total * factor, D)


@triton.jit
def _key_step(k, v, q, g, mask, lse, delta, scale, total_k, total_v):
    """Keys in rows, queries in columns."""
    p = tl.where(mask, tl.exp2(_dot(k, tl.trans(q)) * scale - lse[None, :]), 0.0)
    total_v += _dot(p.to(g.dtype), g)
    ds = p * (_dot(v, tl.trans(g)) - delta[None, :])
    return total_k + _dot(ds.to(q.dtype), q), total_v


@triton.jit
def backward_keys(
    query, qb, qh, qn, key, kb, kh, kn, value, vb, vh, vn, grad, gb, gh, gn, lse, delta,
    grad_key, jb, jh, jn, grad_value, wb, wh, wn,
    heads, height, width, rows, columns, square, tiles_away, scale, factor,
    D: tl.constexpr, BD: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Gradients of the map's keys and values."""
    tile, line = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = line // heads, line % heads
    query += batch * qb + head * qh
    grad += batch * gb + head * gh
    lse += line * height * width
    delta += line * height * width
    channels = tl.arange(0, BD)
    y, x = _positions(tile, columns, SIDE)
    k = _load(key + batch * kb + head * kh, y, x, height, width, kn, channels, D)
    v = _load(value + batch * vb + head * vh, y, x, height, width, vn, channels, D)
    total_k = tl.zeros((SIDE * SIDE, BD), tl.float32)
    total_v = tl.zeros((SIDE * SIDE, BD), tl.float32)
    row, column = tile // columns, tile % columns
    for i in range(tl.maximum(row - tiles_away, 0), tl.minimum(row + tiles_away + 1, rows)):
        reach = _reach(i - row, square, SIDE)
        for j in range(tl.maximum(column - reach, 0), tl.minimum(column + reach + 1, columns)):
            qy, qx = _positions(i * columns + j, columns, SIDE)
            q = _load(query, qy, qx, height, width, qn, channels, D)
            g = _load(grad, qy, qx, height, width, gn, channels, D)
            mask = _within(y, x, qy, qx, height, width, square)
            sums = _load_vector(lse, qy, qx, height, width)
            products = _load_vector(delta, qy, qx, height, width)
            total_k, total_v = _key_step(k, v, q, g, mask, sums, products, scale, total_k, total_v)
    _store(grad_key + batch * jb + head * jh, y, x, height, width, jn, channels, total_k * factor, D)
    _store(grad_value + batch * wb + head * wh, y, x, height, width, wn, channels, total_v, D)


@triton.jit
def backward_extra(
    query, qb, qh, qn, extra_key, extra_value, grad, gb, gh, gn, lse, delta, partial_key, partial_value,
    heads, tokens, extras, splits, scale, factor,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Gradients of extra keys and values from a split of the queries."""
    block, split, line = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    batch, head = line // heads, line % heads
    query += batch * qb + head * qh
    grad += batch * gb + head * gh
    channels = tl.arange(0, BD)
    index = block * BE + tl.arange(0, BE)
    k = _load_extra(extra_key + line * extras * D, index, extras, channels, D)
    v = _load_extra(extra_value + line * extras * D, index, extras, channels, D)
    total_k = tl.zeros((BE, BD), tl.float32)
    total_v = tl.zeros((BE, BD), tl.float32)
    chunk = tl.cdiv(tl.cdiv(tokens, splits), BN) * BN
    end = tl.minimum((split + 1) * chunk, tokens)
    for start in range(split * chunk, end, BN):
        n = start + tl.arange(0, BN)
        q = _load(query, n * 0, n, 1, end, qn, channels, D)
        g = _load(grad, n * 0, n, 1, end, gn, channels, D)
        sums = _load_vector(lse + line * tokens, n * 0, n, 1, end)
        products = _load_vector(delta + line * tokens, n * 0, n, 1, end)
        mask = (index[:, None] < extras) & (n < end)[None, :]
        total_k, total_v = _key_step(k, v, q, g, mask, sums, products, scale, total_k, total_v)
    place = ((line * splits + split) * extras + index)[:, None] * D + channels[None, :]
    mask = (index < extras)[:, None] & (channels < D)[None, :]
    tl.store(partial_key + place, total_k * factor, mask=mask)
    tl.store(partial_value + place, total_v, mask=mask)
