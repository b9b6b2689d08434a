"""The kernels of all linear attentions, backward; `_linear_forward` explains switches and notation.

`query_backward` gives the queries' gradients and, with `merge`, those of the sums; `key_backward` gives those of keys
and values. Where keys are weighted by the mean query, `add_mean_gradient` adds what comes back through it.
"""

import triton
import triton.language as tl

from visionattn.ops.triton._linear_primitives import (
    dot,
    feature,
    feature_gradient,
    fold,
    matrix,
    mean_of_queries,
    phases,
    rotate,
    rotate_back,
    store,
    tile,
    vector,
)

__all__ = ["add_mean_gradient", "key_backward", "query_backward"]


@triton.jit
def _normalize_backward(along, n, mean_value_grad, factor, eps, NORM: tl.constexpr):
    """Of the output's gradient `g` per query: the gradient of `u` over `g`, the gradient of `n`, and of the factor.

    Args:
        along: `u g`.
        mean_value_grad: `g` times the mean of the values.
    """
    if NORM == "divide":
        share = 1.0 / (n + eps)
        dn = -along * share * share
        dfactor = along
    elif NORM == "clamp":
        inverse = 1.0 / tl.maximum(n, eps)
        share = factor * inverse
        dfactor = along * inverse
        dn = tl.where(n >= eps, -factor * dfactor * inverse, 0.0)
    else:
        inverse = 1.0 / (n + eps)
        share = 1.0 + inverse
        dn = -along * inverse * inverse - mean_value_grad
        dfactor = along
    return share, dn, dfactor


@triton.jit
def query_backward(
    query, q_b, q_h, q_n, q_d, grad, g_b, g_h, g_n, g_d, grad_query, dq_b, dq_h, dq_n, dq_d,
    table, row, factors, partial, heads, count, chunk, width, positions, eps,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, GRAD_LENGTH: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One split of the queries: their gradients, and sums of the gradients of `S`, `z` and a third parameter.

    The gradient of `u` is that of the output times a number per query, which is why `u` itself is not needed.
    """
    z = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    query += (z // heads) * q_b + (z % heads) * q_h
    grad += (z // heads) * g_b + (z % heads) * g_h
    grad_query += (z // heads) * dq_b + (z % heads) * dq_h
    row += z * LENGTH
    features, channels = tl.arange(0, BK), tl.arange(0, BV)
    state = tl.trans(matrix(row, features, channels, DK, DV))
    feature_sum = vector(row, 0, features, DK, DK, DV, SPAN)
    mean_value = vector(row, 1, channels, DV, DK, DV, SPAN) if NORM == "magnitude" else channels
    factor = tl.load(factors + z % heads) if NORM == "clamp" else 1.0
    dstate = tl.zeros((BK, BV), tl.float32)
    dsum = tl.zeros((ROWS, BK), tl.float32)
    dmean = tl.zeros((ROWS, BV), tl.float32)
    dfactors = tl.zeros((BN,), tl.float32)
    first = split * chunk
    last = min(first + chunk, count)
    tokens = first + tl.arange(0, BN)
    x_next = tile(query, tokens, features, q_n, q_d, count, DK, FEATURE)
    g_next = tile(grad, tokens, channels, g_n, g_d, count, DV, "identity")
    for start in range(first, last, BN):
        tokens = start + tl.arange(0, BN)
        a, g = feature(x_next.to(tl.float32), FEATURE), g_next
        x_next = tile(query, tokens + BN, features, q_n, q_d, last, DK, FEATURE)
        g_next = tile(grad, tokens + BN, channels, g_n, g_d, last, DV, "identity")
        da = dot(g, state, PRECISION)
        n = tl.sum(a * feature_sum[None, :], 1)
        turned = a
        if ROTARY:
            sin, cos = phases(table, tokens, features, count, width, positions, DK)
            turned = rotate(a, sin, cos)
            da = rotate_back(da, sin, cos)
        mean_value_grad = n
        if NORM == "magnitude":
            mean_value_grad = tl.sum(g.to(tl.float32) * mean_value[None, :], 1)
            dmean -= fold(g.to(tl.float32) * n[:, None], ROWS)
        share, dn, dfactor = _normalize_backward(tl.sum(a * da, 1), n, mean_value_grad, factor, eps, NORM)
        if NORM == "clamp":
            dfactors += dfactor
        dsum += fold(dn[:, None] * a, ROWS)
        dstate += dot(tl.trans(turned * share[:, None]), g, PRECISION)
        da = da * share[:, None] + dn[:, None] * feature_sum[None, :]
        store(grad_query, tokens, features, dq_n, dq_d, count, feature_gradient(a, da, FEATURE), DK)
    partial += (z * tl.num_programs(1) + split) * GRAD_LENGTH
    mask = (features < DK)[:, None] & (channels < DV)[None, :]
    tl.store(partial + features[:, None] * DV + channels[None, :], dstate, mask=mask)
    tl.store(partial + DK * DV + features, tl.sum(dsum, 0), mask=features < DK)
    if NORM == "magnitude":
        tl.store(partial + DK * DV + SPAN + channels, tl.sum(dmean, 0), mask=channels < DV)
    if NORM == "clamp":
        tl.store(partial + DK * DV + SPAN, tl.sum(dfactors, 0))


@triton.jit
def key_backward(
    key, k_b, k_h, k_n, k_d, value, v_b, v_h, v_n, v_d, grad_key, dk_b, dk_h, dk_n, dk_d,
    grad_value, dv_b, dv_h, dv_n, dv_d, table, row, grad_row, sums,
    heads, count, chunk, splits, width, positions,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, WEIGHTED: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, GRAD_LENGTH: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of the keys and values of one split, and its sum of the gradient of the scaled mean query."""
    z = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    key += (z // heads) * k_b + (z % heads) * k_h
    value += (z // heads) * v_b + (z % heads) * v_h
    grad_key += (z // heads) * dk_b + (z % heads) * dk_h
    grad_value += (z // heads) * dv_b + (z % heads) * dv_h
    row += z * LENGTH
    grad_row += z * GRAD_LENGTH
    features, channels = tl.arange(0, BK), tl.arange(0, BV)
    dstate = matrix(grad_row, features, channels, DK, DV)
    dsum = vector(grad_row, 0, features, DK, DK, DV, SPAN)
    if NORM == "magnitude":
        dmean = vector(grad_row, 1, channels, DV, DK, DV, SPAN)
    if WEIGHTED:
        mean_query = vector(row, 1, features, DK, DK, DV, SPAN)
        peak = tl.load(row + DK * DV + 2 * SPAN)
        inverse = tl.load(row + DK * DV + 2 * SPAN + 1)
        # The mean, by weight, of the gradients of the weights.
        average = tl.sum(dsum * vector(row, 0, features, DK, DK, DV, SPAN), 0)
        average += tl.sum(tl.sum(dstate * matrix(row, features, channels, DK, DV), 1), 0)
    dmean_query = tl.zeros((ROWS, BK), tl.float32)
    first = split * chunk
    last = min(first + chunk, count)
    tokens = first + tl.arange(0, BN)
    x_next = tile(key, tokens, features, k_n, k_d, count, DK, FEATURE)
    v_next = tile(value, tokens, channels, v_n, v_d, count, DV, "identity")
    for start in range(first, last, BN):
        tokens = start + tl.arange(0, BN)
        b, v = feature(x_next.to(tl.float32), FEATURE), v_next
        x_next = tile(key, tokens + BN, features, k_n, k_d, last, DK, FEATURE)
        v_next = tile(value, tokens + BN, channels, v_n, v_d, last, DV, "identity")
        db = dot(v, tl.trans(dstate), PRECISION)
        turned = b
        if ROTARY:
            sin, cos = phases(table, tokens, features, count, width, positions, DK)
            turned = rotate(b, sin, cos)
            db = rotate_back(db, sin, cos)
        db += dsum[None, :]
        dv = dot(turned, dstate, PRECISION)
        if WEIGHTED:
            logit = tl.sum(b * mean_query[None, :], 1)
            weight = tl.where(tokens < count, tl.exp(logit - peak) * inverse, 0.0)
            dlogit = weight * (tl.sum(b * db, 1) - average)
            dmean_query += fold(dlogit[:, None] * b, ROWS)
            dv = dv * weight[:, None]
            db = db * weight[:, None] + dlogit[:, None] * mean_query[None, :]
        if NORM == "magnitude":
            dv += dmean[None, :]
        store(grad_key, tokens, features, dk_n, dk_d, count, feature_gradient(b, db, FEATURE), DK)
        store(grad_value, tokens, channels, dv_n, dv_d, count, dv, DV)
    if WEIGHTED:
        tl.store(sums + (z * splits + split) * DK + features, tl.sum(dmean_query, 0), mask=features < DK)


@triton.jit
def add_mean_gradient(
    query, q_b, q_h, q_n, q_d, grad_query, dq_b, dq_h, dq_n, dq_d, sums, heads, count, splits, scale,
    FEATURE: tl.constexpr, DK: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Adds to the queries' gradients what comes through their mean."""
    z = tl.program_id(0).to(tl.int64)
    query += (z // heads) * q_b + (z % heads) * q_h
    grad_query += (z // heads) * dq_b + (z % heads) * dq_h
    features = tl.arange(0, BK)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    x = tile(query, tokens, features, q_n, q_d, count, DK, FEATURE).to(tl.float32)
    dq = tile(grad_query, tokens, features, dq_n, dq_d, count, DK, "identity").to(tl.float32)
    da = mean_of_queries(sums, z, features, splits, scale, DK, SPLITS)
    dq += feature_gradient(feature(x, FEATURE), tl.broadcast_to(da[None, :], (BN, BK)), FEATURE)
    store(grad_query, tokens, features, dq_n, dq_d, count, dq, DK)
