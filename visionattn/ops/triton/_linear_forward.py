"""The kernels of all linear attentions, forward.

`collect` sums features of keys times values over the tokens of a split, `merge` adds the splits up in a fixed order,
and `distribute` reads the sum with every query. What the attentions differ in are compile-time switches, here and in
`_linear_backward`:

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

from visionattn.ops.triton._linear_primitives import (
    dot,
    feature,
    fold,
    matrix,
    mean_of_queries,
    normalize,
    phases,
    rotate,
    store,
    tile,
    vector,
)

__all__ = ["collect", "distribute", "merge", "prepare"]


@triton.jit
def prepare(
    query, q_b, q_h, q_n, q_d, angle, table, sums, heads, count, chunk, splits, positions,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, WEIGHTED: tl.constexpr, DK: tl.constexpr, BK: tl.constexpr,
    BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The table of phases, and per split the sum of the queries' features where keys are weighted by it."""
    z = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
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
        total = tl.zeros((ROWS, BK), tl.float32)
        for start in range(split * chunk, min(split * chunk + chunk, count), BN):
            tokens = start + tl.arange(0, BN)
            x = tile(query, tokens, features, q_n, q_d, count, DK, FEATURE)
            total += fold(feature(x.to(tl.float32), FEATURE), ROWS)
        tl.store(sums + (z * splits + split) * DK + features, tl.sum(total, 0), mask=features < DK)


@triton.jit
def collect(
    key, k_b, k_h, k_n, k_d, value, v_b, v_h, v_n, v_d, table, sums, partial, extremes, row,
    heads, count, chunk, splits, width, positions, query_scale,
    FEATURE: tl.constexpr, ROTARY: tl.constexpr, WEIGHTED: tl.constexpr, NORM: tl.constexpr, PRECISION: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    BN: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Sums of one split of the keys: `S`, `z`, and the values' sum (magnitude) or the softmax's statistics.

    `splits` are those of the queries, that `sums` has.
    """
    z = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    key += (z // heads) * k_b + (z % heads) * k_h
    value += (z // heads) * v_b + (z % heads) * v_h
    features, channels = tl.arange(0, BK), tl.arange(0, BV)
    state = tl.zeros((BK, BV), tl.float32)
    feature_sum = tl.zeros((ROWS, BK), tl.float32)
    value_sum = tl.zeros((ROWS, BV), tl.float32)
    peak = float("-inf")
    total = 0.0
    if WEIGHTED:
        mean_query = mean_of_queries(sums, z, features, splits, query_scale, DK, SPLITS)
        if split == 0:
            tl.store(row + z * LENGTH + DK * DV + SPAN + features, mean_query, mask=features < DK)
    first = split * chunk
    last = min(first + chunk, count)
    tokens = first + tl.arange(0, BN)
    x = tile(key, tokens, features, k_n, k_d, count, DK, FEATURE)
    v = tile(value, tokens, channels, v_n, v_d, count, DV, "identity")
    for start in range(first, last, BN):
        tokens = start + tl.arange(0, BN)
        b = feature(x.to(tl.float32), FEATURE)
        values = v
        x = tile(key, tokens + BN, features, k_n, k_d, last, DK, FEATURE)  # the next ones, ahead of their use
        v = tile(value, tokens + BN, channels, v_n, v_d, last, DV, "identity")
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
        feature_sum += fold(b, ROWS)
        if NORM == "magnitude":
            value_sum += fold(values.to(tl.float32), ROWS)
        if ROTARY:
            sin, cos = phases(table, tokens, features, count, width, positions, DK)
            b = rotate(b, sin, cos)
        state += dot(tl.trans(b), values, PRECISION)
    partial += (z * tl.num_programs(1) + split) * LENGTH
    mask = (features < DK)[:, None] & (channels < DV)[None, :]
    tl.store(partial + features[:, None] * DV + channels[None, :], state, mask=mask)
    tl.store(partial + DK * DV + features, tl.sum(feature_sum, 0), mask=features < DK)
    if NORM == "magnitude":
        tl.store(partial + DK * DV + SPAN + channels, tl.sum(value_sum, 0), mask=channels < DV)
    if WEIGHTED:
        tl.store(extremes + (z * tl.num_programs(1) + split) * 2, peak)
        tl.store(extremes + (z * tl.num_programs(1) + split) * 2 + 1, total)


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
        every = tl.arange(0, SPLITS)
        source = extremes + (z * splits + every) * 2
        highest = tl.load(source, mask=every < splits, other=float("-inf"))
        totals = tl.load(source + 1, mask=every < splits, other=0.0)
        peak = tl.max(highest, 0)
        inverse = 1.0 / tl.sum(tl.exp(highest - peak) * totals, 0)
        if tl.program_id(1) == 0:
            place = tl.arange(0, BLOCK)
            statistics = tl.where(place == 0, peak, tl.where(place == 1, inverse, 0.0))
            tl.store(row + z * LENGTH + MATRIX + 2 * SPAN + place, statistics, mask=place < SPAN)
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
    state = matrix(row, features, channels, DK, DV)
    feature_sum = vector(row, 0, features, DK, DK, DV, SPAN)
    mean_value = feature_sum
    if NORM == "magnitude":
        mean_value = vector(row, 1, channels, DV, DK, DV, SPAN)
    factor = 1.0
    if NORM == "clamp":
        factor = tl.load(factors + z % heads)
    first = tl.program_id(1) * chunk
    last = min(first + chunk, count)
    x = tile(query, first + tl.arange(0, BN), features, q_n, q_d, count, DK, FEATURE)
    for start in range(first, last, BN):
        tokens = start + tl.arange(0, BN)
        a = feature(x.to(tl.float32), FEATURE)
        x = tile(query, tokens + BN, features, q_n, q_d, last, DK, FEATURE)
        n = tl.sum(a * feature_sum[None, :], 1)
        if ROTARY:
            sin, cos = phases(table, tokens, features, count, width, positions, DK)
            a = rotate(a, sin, cos)
        y = normalize(dot(a, state, PRECISION), n, mean_value, factor, eps, NORM)
        store(out, tokens, channels, o_n, o_d, count, y, DV)
