"""The kernels of all linear attentions: two sweeps over the tokens forward, two or three backward.

Forward, `collect` sums features of keys times values over the tokens of a split, `merge` adds the splits up in a fixed
order, and `distribute` reads the sum with every query. Backward, `collect_backward` sweeps queries and output
gradients, `distribute_backward` keys and values. What the attentions differ in are compile-time switches:

    FEATURE   "elu", "relu" or "identity"
    ROTARY    features turn with the token's row and column before they are multiplied with values (or read)
    WEIGHTED  keys are weighted by a softmax of their affinity to the mean query
    NORM      "divide" (by the normaliser plus eps), "clamp" (by at least eps, times a factor per head) or "magnitude"

Notation: `a`, `b` features of queries and keys; `S` sum of `b^T v`; `z` sum of `b`; `n = a z`; `u = a S`. Everything is
float32; matrix products take float32 apart into what tensor cores multiply. Per (batch, head) one row of float32 holds
`S` and then vectors of `SPAN` numbers: `z`, and per attention the mean of the values, or the scaled mean query and the
softmax's maximum and reciprocal sum.
"""

import triton
import triton.language as tl

__all__ = ["collect", "collect_backward", "distribute", "distribute_backward", "merge", "prepare"]


@triton.jit
def _feature(x, FEATURE: tl.constexpr):
    if FEATURE == "elu":
        x = tl.exp(tl.minimum(x, 0.0)) + tl.maximum(x, 0.0)
    elif FEATURE == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _feature_gradient(x, grad, FEATURE: tl.constexpr):
    if FEATURE == "elu":
        grad = grad * tl.exp(tl.minimum(x, 0.0))
    elif FEATURE == "relu":
        grad = tl.where(x > 0, grad, 0.0)
    return grad


@triton.jit
def _tile(pointer, tokens, channels, stride_n, stride_d, count, DIM: tl.constexpr):
    """Rows of a `[tokens, DIM]` slice, zero outside, in float32, and the mask."""
    mask = (tokens < count)[:, None]
    if channels.shape[0] != DIM:
        mask = mask & (channels < DIM)[None, :]
    offsets = tokens.to(tl.int64)[:, None] * stride_n + channels[None, :] * stride_d
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32), mask


@triton.jit
def _store(pointer, tokens, channels, stride_n, stride_d, x, mask):
    offsets = tokens.to(tl.int64)[:, None] * stride_n + channels[None, :] * stride_d
    tl.store(pointer + offsets, x.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _matrix(row, features, channels, DK: tl.constexpr, DV: tl.constexpr):
    """`S` or its gradient out of a row, zero outside."""
    mask = (features < DK)[:, None] & (channels < DV)[None, :]
    return tl.load(row + features[:, None] * DV + channels[None, :], mask=mask, other=0.0)


@triton.jit
def _vector(row, slot: tl.constexpr, index, DIM: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr):
    return tl.load(row + DK * DV + slot * SPAN + index, mask=index < DIM, other=0.0)


@triton.jit
def _phases(table, tokens, channels, width, positions, mask, DIM: tl.constexpr):
    """Sine and cosine `[tokens, DIM]` from a table `[2, positions, DIM / 2]`."""
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
def _rotate(x, sin, cos):
    rows: tl.constexpr = x.shape[0]
    width: tl.constexpr = x.shape[1]
    even, odd = tl.split(tl.reshape(x, (rows, width // 2, 2)))
    return x * cos + tl.reshape(tl.join(-odd, even), (rows, width)) * sin


@triton.jit
def _rotate_back(x, sin, cos):
    """The transpose of `_rotate`, for gradients."""
    rows: tl.constexpr = x.shape[0]
    width: tl.constexpr = x.shape[1]
    even, odd = tl.split(tl.reshape(x * sin, (rows, width // 2, 2)))
    return x * cos + tl.reshape(tl.join(odd, -even), (rows, width))


@triton.jit
def _dot(x, y, PRECISION: tl.constexpr, SPLIT_X: tl.constexpr = True, SPLIT_Y: tl.constexpr = True):
    """`x @ y` in float32. "bf16x3" takes operands apart into two bfloat16 each, as far as they are to be split."""
    if PRECISION == "tf32x3":
        return tl.dot(x, y, input_precision="tf32x3")
    high_x = x.to(tl.bfloat16)
    high_y = y.to(tl.bfloat16)
    product = tl.dot(high_x, high_y)
    if PRECISION == "bf16x3":
        if SPLIT_X:
            product = tl.dot((x - high_x.to(tl.float32)).to(tl.bfloat16), high_y, product)
        if SPLIT_Y:
            product = tl.dot(high_x, (y - high_y.to(tl.float32)).to(tl.bfloat16), product)
    return product


@triton.jit
def _normalize(u, n, mean_value, factor, eps, NORM: tl.constexpr):
    """The output from `u` and `n`."""
    if NORM == "divide":
        out = u / (n + eps)[:, None]
    elif NORM == "clamp":
        out = u * (factor / tl.maximum(n, eps))[:, None]
    else:
        out = u * (1.0 + 1.0 / (n + eps))[:, None] - n[:, None] * mean_value[None, :]
    return out


@triton.jit
def _normalize_backward(grad, u, n, mean_value, factor, eps, NORM: tl.constexpr):
    """Gradients of `u` and `n`, and what a third parameter's gradient is made of: see the callers."""
    along = tl.sum(grad * u, 1)
    if NORM == "divide":
        inverse = 1.0 / (n + eps)
        du = grad * inverse[:, None]
        dn = -along * inverse * inverse
        rest = along
    elif NORM == "clamp":
        inverse = 1.0 / tl.maximum(n, eps)
        du = grad * (factor * inverse)[:, None]
        rest = along * inverse
        dn = tl.where(n >= eps, -factor * rest * inverse, 0.0)
    else:
        inverse = 1.0 / (n + eps)
        du = grad * (1.0 + inverse)[:, None]
        dn = -along * inverse * inverse - tl.sum(grad * mean_value[None, :], 1)
        rest = -n
    return du, dn, rest


@triton.jit
def prepare(
    query, q_b, q_h, q_n, q_d, angle, table, sums, heads, count, chunk, splits, positions,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, WEIGHTED: tl.constexpr, DK: tl.constexpr, BK: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """The table of phases, and per split the sum of the queries' features where keys are weighted by it."""
    split = tl.program_id(1)
    z = tl.program_id(0).to(tl.int64)
    features = tl.arange(0, BK)
    if ROTARY:
        programs = tl.num_programs(0) * tl.num_programs(1)
        rates = tl.load(angle + features, mask=features < DK // 2, other=0.0)
        for position in range(tl.program_id(0) + tl.num_programs(0) * split, positions, programs):
            phase = position * rates
            target = table + position * (DK // 2) + features
            tl.store(target, tl.sin(phase), mask=features < DK // 2)
            tl.store(target + positions * (DK // 2), tl.cos(phase), mask=features < DK // 2)
    if WEIGHTED:
        query += (z // heads) * q_b + (z % heads) * q_h
        total = tl.zeros((BN, BK), tl.float32)
        for start in range(split * chunk, min(split * chunk + chunk, count), BN):
            tokens = start + tl.arange(0, BN)
            x, mask = _tile(query, tokens, features, q_n, q_d, count, DK)
            total += tl.where(mask, _feature(x, FEATURE), 0.0)
        tl.store(sums + (z * splits + split) * DK + features, tl.sum(total, 0), mask=features < DK)


@triton.jit
def collect(
    key, k_b, k_h, k_n, k_d, value, v_b, v_h, v_n, v_d, table, sums, partial, extremes, row,
    heads, count, chunk, splits, width, positions, query_scale,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, WEIGHTED: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    BN: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Sums of one split of the keys: `S`, `z`, and the values' sum (magnitude) or the softmax's statistics."""
    split = tl.program_id(1)
    z = tl.program_id(0).to(tl.int64)
    key += (z // heads) * k_b + (z % heads) * k_h
    value += (z // heads) * v_b + (z % heads) * v_h
    features, channels = tl.arange(0, BK), tl.arange(0, BV)
    state = tl.zeros((BK, BV), tl.float32)
    feature_sum = tl.zeros((BK,), tl.float32)
    value_sum = tl.zeros((BV,), tl.float32)
    peak = float("-inf")
    total = 0.0
    if WEIGHTED:
        rows = tl.arange(0, SPLITS)
        known = (rows < splits)[:, None] & (features < DK)[None, :]
        parts = tl.load(sums + (z * splits + rows)[:, None] * DK + features[None, :], mask=known, other=0.0)
        mean_query = tl.sum(parts, 0) * query_scale
        if split == 0:
            tl.store(row + z * LENGTH + DK * DV + SPAN + features, mean_query, mask=features < DK)
    for start in range(split * chunk, min(split * chunk + chunk, count), BN):
        tokens = start + tl.arange(0, BN)
        x, mask = _tile(key, tokens, features, k_n, k_d, count, DK)
        v, _ = _tile(value, tokens, channels, v_n, v_d, count, DV)
        b = tl.where(mask, _feature(x, FEATURE), 0.0)
        if WEIGHTED:
            logit = tl.where(tokens < count, tl.sum(b * mean_query[None, :], 1), float("-inf"))
            higher = tl.maximum(peak, tl.max(logit, 0))
            weight = tl.exp(logit - higher)
            shrink = tl.exp(peak - higher)
            total = total * shrink + tl.sum(weight, 0)
            feature_sum = feature_sum * shrink
            state = state * shrink
            b = b * weight[:, None]
            peak = higher
        feature_sum += tl.sum(b, 0)
        if NORM == "magnitude":
            value_sum += tl.sum(v, 0)
        if ROTARY:
            sin, cos = _phases(table, tokens, features, width, positions, mask, DK)
            b = _rotate(b, sin, cos)
        state += _dot(tl.trans(b), v, PRECISION)
    partial += (z * splits + split) * LENGTH
    mask = (features < DK)[:, None] & (channels < DV)[None, :]
    tl.store(partial + features[:, None] * DV + channels[None, :], state, mask=mask)
    tl.store(partial + DK * DV + features, feature_sum, mask=features < DK)
    if NORM == "magnitude":
        tl.store(partial + DK * DV + SPAN + channels, value_sum, mask=channels < DV)
    if WEIGHTED:
        tl.store(extremes + (z * splits + split) * 2, peak)
        tl.store(extremes + (z * splits + split) * 2 + 1, total)


@triton.jit
def merge(
    partial, extremes, row, splits, scale, vector_scale,
    WEIGHTED: tl.constexpr, MATRIX: tl.constexpr, SPAN: tl.constexpr, MERGED: tl.constexpr, LENGTH: tl.constexpr,
    BLOCK: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Adds up the splits, in a fixed order, and scales: `S` and `z` by one factor, the vector after them by another."""
    z = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = index < MERGED
    if WEIGHTED:
        rows = tl.arange(0, SPLITS)
        source = extremes + (z * splits + rows) * 2
        peaks = tl.load(source, mask=rows < splits, other=float("-inf"))
        totals = tl.load(source + 1, mask=rows < splits, other=0.0)
        peak = tl.max(peaks, 0)
        inverse = 1.0 / tl.sum(tl.exp(peaks - peak) * totals, 0)
        if tl.program_id(1) == 0:
            tl.store(row + z * LENGTH + MATRIX + 2 * SPAN, peak)
            tl.store(row + z * LENGTH + MATRIX + 2 * SPAN + 1, inverse)
    total = tl.zeros((GROUP, BLOCK), tl.float32)
    for first in range(0, splits, GROUP):
        rows = first + tl.arange(0, GROUP)
        mask = (rows < splits)[:, None] & inside[None, :]
        part = tl.load(partial + (z * splits + rows)[:, None] * LENGTH + index[None, :], mask=mask, other=0.0)
        if WEIGHTED:
            peaks = tl.load(extremes + (z * splits + rows) * 2, mask=rows < splits, other=float("-inf"))
            part = part * tl.exp(peaks - peak)[:, None]
        total += part
    merged = tl.sum(total, 0) * tl.where(index < MATRIX + SPAN, scale, vector_scale)
    if WEIGHTED:
        merged = merged * inverse
    tl.store(row + z * LENGTH + index, merged, mask=inside)


@triton.jit
def distribute(
    query, q_b, q_h, q_n, q_d, out, o_b, o_h, o_n, o_d, table, row, factors,
    heads, count, chunk, width, positions, eps,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """The output of the queries of one chunk."""
    z = tl.program_id(0).to(tl.int64)
    query += (z // heads) * q_b + (z % heads) * q_h
    out += (z // heads) * o_b + (z % heads) * o_h
    row += z * LENGTH
    features, channels = tl.arange(0, BK), tl.arange(0, BV)
    state = _matrix(row, features, channels, DK, DV)
    feature_sum = _vector(row, 0, features, DK, DK, DV, SPAN)
    mean_value = feature_sum
    if NORM == "magnitude":
        mean_value = _vector(row, 1, channels, DV, DK, DV, SPAN)
    factor = 1.0
    if NORM == "clamp":
        factor = tl.load(factors + z % heads)
    first = tl.program_id(1) * chunk
    for start in range(first, min(first + chunk, count), BN):
        tokens = start + tl.arange(0, BN)
        x, mask = _tile(query, tokens, features, q_n, q_d, count, DK)
        a = tl.where(mask, _feature(x, FEATURE), 0.0)
        n = tl.sum(a * feature_sum[None, :], 1)
        if ROTARY:
            sin, cos = _phases(table, tokens, features, width, positions, mask, DK)
            a = _rotate(a, sin, cos)
        y = _normalize(_dot(a, state, PRECISION), n, mean_value, factor, eps, NORM)
        mask = (tokens < count)[:, None] & (channels < DV)[None, :]
        _store(out, tokens, channels, o_n, o_d, y, mask)


@triton.jit
def collect_backward(
    query, q_b, q_h, q_n, q_d, grad, g_b, g_h, g_n, g_d, grad_query, dq_b, dq_h, dq_n, dq_d,
    table, row, factors, query_sums, partial, heads, count, chunk, splits, width, positions, eps, query_scale,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, WEIGHTED: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    ACCUMULATE: tl.constexpr, STORE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr,
    LENGTH: tl.constexpr, GRAD_LENGTH: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """One split of the queries: sums of the gradients of `S`, `z` and the third parameter; gradient of the queries.

    `splits` are those of the keys, that `query_sums` has.

    Where keys are weighted by the mean query its gradient is known only after the keys' sweep: this one runs twice
    then, first to ACCUMULATE, then to STORE.
    """
    split = tl.program_id(1)
    z = tl.program_id(0).to(tl.int64)
    query += (z // heads) * q_b + (z % heads) * q_h
    grad += (z // heads) * g_b + (z % heads) * g_h
    grad_query += (z // heads) * dq_b + (z % heads) * dq_h
    row += z * LENGTH
    features, channels = tl.arange(0, BK), tl.arange(0, BV)
    state = _matrix(row, features, channels, DK, DV)
    feature_sum = _vector(row, 0, features, DK, DK, DV, SPAN)
    mean_value = feature_sum
    if NORM == "magnitude":
        mean_value = _vector(row, 1, channels, DV, DK, DV, SPAN)
    factor = 1.0
    if NORM == "clamp":
        factor = tl.load(factors + z % heads)
    mean_gradient = tl.zeros((BK,), tl.float32)
    if WEIGHTED and STORE:
        rows = tl.arange(0, SPLITS)
        known = (rows < splits)[:, None] & (features < DK)[None, :]
        parts = tl.load(query_sums + (z * splits + rows)[:, None] * DK + features[None, :], mask=known, other=0.0)
        mean_gradient = tl.sum(parts, 0) * query_scale
    dstate = tl.zeros((BK, BV), tl.float32)
    dsum = tl.zeros((BK,), tl.float32)
    dmean = tl.zeros((BV,), tl.float32)
    dfactor = 0.0
    for start in range(split * chunk, min(split * chunk + chunk, count), BN):
        tokens = start + tl.arange(0, BN)
        x, mask = _tile(query, tokens, features, q_n, q_d, count, DK)
        g, _ = _tile(grad, tokens, channels, g_n, g_d, count, DV)
        a = tl.where(mask, _feature(x, FEATURE), 0.0)
        n = tl.sum(a * feature_sum[None, :], 1)
        turned = a
        if ROTARY:
            sin, cos = _phases(table, tokens, features, width, positions, mask, DK)
            turned = _rotate(a, sin, cos)
        u = _dot(turned, state, PRECISION)
        du, dn, rest = _normalize_backward(g, u, n, mean_value, factor, eps, NORM)
        if ACCUMULATE:
            dstate += _dot(tl.trans(turned), du, PRECISION)
            dsum += tl.sum(dn[:, None] * a, 0)
            if NORM == "magnitude":
                dmean += tl.sum(rest[:, None] * g, 0)
            if NORM == "clamp":
                dfactor += tl.sum(rest, 0)
        if STORE:
            da = _dot(du, tl.trans(state), PRECISION)
            if ROTARY:
                da = _rotate_back(da, sin, cos)
            da += dn[:, None] * feature_sum[None, :] + mean_gradient[None, :]
            _store(grad_query, tokens, features, dq_n, dq_d, _feature_gradient(x, da, FEATURE), mask)
    if ACCUMULATE:
        partial += (z * tl.num_programs(1) + split) * GRAD_LENGTH
        mask = (features < DK)[:, None] & (channels < DV)[None, :]
        tl.store(partial + features[:, None] * DV + channels[None, :], dstate, mask=mask)
        tl.store(partial + DK * DV + features, dsum, mask=features < DK)
        if NORM == "magnitude":
            tl.store(partial + DK * DV + SPAN + channels, dmean, mask=channels < DV)
        if NORM == "clamp":
            tl.store(partial + DK * DV + SPAN, dfactor)


@triton.jit
def distribute_backward(
    key, k_b, k_h, k_n, k_d, value, v_b, v_h, v_n, v_d, grad_key, dk_b, dk_h, dk_n, dk_d,
    grad_value, dv_b, dv_h, dv_n, dv_d, table, row, grad_row, query_sums,
    heads, count, chunk, splits, width, positions,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, WEIGHTED: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, GRAD_LENGTH: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of the keys and values of one split, and its sum of the gradient of the scaled mean query."""
    split = tl.program_id(1)
    z = tl.program_id(0).to(tl.int64)
    key += (z // heads) * k_b + (z % heads) * k_h
    value += (z // heads) * v_b + (z % heads) * v_h
    grad_key += (z // heads) * dk_b + (z % heads) * dk_h
    grad_value += (z // heads) * dv_b + (z % heads) * dv_h
    row += z * LENGTH
    grad_row += z * GRAD_LENGTH
    features, channels = tl.arange(0, BK), tl.arange(0, BV)
    dstate = _matrix(grad_row, features, channels, DK, DV)
    dsum = _vector(grad_row, 0, features, DK, DK, DV, SPAN)
    if NORM == "magnitude":
        dmean = _vector(grad_row, 1, channels, DV, DK, DV, SPAN)
    if WEIGHTED:
        mean_query = _vector(row, 1, features, DK, DK, DV, SPAN)
        peak = tl.load(row + DK * DV + 2 * SPAN)
        inverse = tl.load(row + DK * DV + 2 * SPAN + 1)
        # The mean, by weight, of the gradients of the weights.
        average = tl.sum(dsum * _vector(row, 0, features, DK, DK, DV, SPAN), 0)
        average += tl.sum(tl.sum(dstate * _matrix(row, features, channels, DK, DV), 1), 0)
    dmean_query = tl.zeros((BK,), tl.float32)
    for start in range(split * chunk, min(split * chunk + chunk, count), BN):
        tokens = start + tl.arange(0, BN)
        x, mask = _tile(key, tokens, features, k_n, k_d, count, DK)
        v, value_mask = _tile(value, tokens, channels, v_n, v_d, count, DV)
        b = tl.where(mask, _feature(x, FEATURE), 0.0)
        turned = b
        if ROTARY:
            sin, cos = _phases(table, tokens, features, width, positions, mask, DK)
            turned = _rotate(b, sin, cos)
        dv = _dot(turned, dstate, PRECISION)
        db = _dot(v, tl.trans(dstate), PRECISION)
        if WEIGHTED:
            logit = tl.sum(b * mean_query[None, :], 1)
            weight = tl.where(tokens < count, tl.exp(logit - peak) * inverse, 0.0)
            dweight = tl.sum(turned * db, 1) + tl.sum(b * dsum[None, :], 1)
            dlogit = weight * (dweight - average)
            dmean_query += tl.sum(dlogit[:, None] * b, 0)
            dv = dv * weight[:, None]
        if ROTARY:
            db = _rotate_back(db, sin, cos)
        db += dsum[None, :]
        if WEIGHTED:
            db = db * weight[:, None] + dlogit[:, None] * mean_query[None, :]
        if NORM == "magnitude":
            dv += dmean[None, :]
        _store(grad_key, tokens, features, dk_n, dk_d, _feature_gradient(x, db, FEATURE), mask)
        _store(grad_value, tokens, channels, dv_n, dv_d, dv, value_mask)
    if WEIGHTED:
        tl.store(query_sums + (z * splits + split) * DK + features, dmean_query, mask=features < DK)
