"""The kernels of Flow-Attention: sweeps over the tokens that keep nothing per token, four forward, four backward.

Notation, per (batch, head): q, k sigmoids of queries and keys; `Q`, `K` their sums; `I = 1 / <q, K>`, `O = 1 / <k, Q>`;
`A = sum q I`, `B = sum k O`; `s = <k, A>` clamped, `Z = sum exp(s)`, `M = (sum k^T v exp(s)) N_kv / Z`; and
`<x, y> = sum (x + eps) (y + eps) + flow_eps`. Every split of a sweep leaves its sums; the next sweep adds the splits up
in a fixed order. `vectors` `[4, rows, BD]` gets `Q`, `K`, `A` and `B`; `state` holds rows of `sum k^T v exp(s)`
`[BD, BV]` and `Z`, `BD * BV + PAD` numbers each.
"""

import triton
import triton.language as tl

from visionattn.ops.triton._linear_primitives import dot, fold, store, tile

__all__ = ["collect", "collect_backward", "distribute", "flows", "keys_backward", "queries_backward", "sums"]

PAD = tl.constexpr(4)  # numbers after the matrix of a row, the first is `Z`; keeps rows aligned


@triton.jit
def _total(partial, row, splits, index, WIDTH: tl.constexpr):
    """The sum over the splits of a row's vector `[WIDTH]`, 16 splits at a time."""
    total = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, splits, 16):
        split = start + tl.arange(0, 16)
        offsets = (row * splits + split).to(tl.int64)[:, None] * WIDTH + index[None, :]
        total += tl.sum(tl.load(partial + offsets, mask=(split < splits)[:, None], other=0.0), 0)
    return total


@triton.jit
def _sigmoid(x):
    """Sigmoids of a tile as it is stored; zero where `tile` has no feature."""
    return 1.0 / (1.0 + tl.exp(-x.to(tl.float32)))


@triton.jit
def _inner(x, vector, inside, eps, flow_eps):
    """`<x, vector>` of every row of `x`; `inside` is 1 for channels and 0 for padding."""
    return tl.sum((x + eps) * ((vector + eps) * inside)[None, :], 1) + flow_eps


@triton.jit
def _sinks(q, key_sum, b, inside, ratio, eps, flow_eps):
    """Of every query: `I`, and its allocation."""
    incoming = 1.0 / _inner(q, key_sum, inside, eps, flow_eps)
    return incoming, 1.0 / (1.0 + tl.exp(-_inner(q, b, inside, eps, flow_eps) * ratio))


@triton.jit
def _clamp(s):
    return tl.minimum(tl.maximum(s, -1.0), 1.0)


@triton.jit
def _vector(vectors, slot, rows, row, channels, BD: tl.constexpr):
    return tl.load(vectors + (slot * rows + row).to(tl.int64) * BD + channels)


@triton.jit
def _keep(vectors, slot, rows, row, split, channels, x, BD: tl.constexpr):
    """Writes a vector once."""
    if split == 0:
        tl.store(vectors + (slot * rows + row).to(tl.int64) * BD + channels, x)


@triton.jit
def _span(tokens, split, splits, BN: tl.constexpr):
    """First and last token of a split."""
    chunk = tl.cdiv(tl.cdiv(tokens, splits), BN) * BN
    return split * chunk, tl.minimum((split + 1) * chunk, tokens)


@triton.jit
def _sum_side(
    x, stride_n, stride_d, count, out, split, splits,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    channels = tl.arange(0, BD)
    total = tl.zeros((ROWS, BD), tl.float32)
    start, end = _span(count, split, splits, BN)
    following = tile(x, start + tl.arange(0, BN), channels, stride_n, stride_d, end, D, "elu")
    for n in range(start, end, BN):
        s = _sigmoid(following)
        following = tile(x, n + BN + tl.arange(0, BN), channels, stride_n, stride_d, end, D, "elu")
        total += fold(s, ROWS)
    tl.store(out + channels, tl.sum(total, 0))


@triton.jit
def sums(
    query, qb, qh, qn, qd, key, kb, kh, kn, kd, out, heads, tokens, sources, splits, rows,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Partial `Q` (third program index 0) or `K` (1)."""
    row, split = tl.program_id(0), tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    if tl.program_id(2) == 0:
        out += (row * splits + split).to(tl.int64) * BD
        _sum_side(query + batch * qb + head * qh, qn, qd, tokens, out, split, splits, D, BD, BN, ROWS)
    else:
        out += ((rows + row) * splits + split).to(tl.int64) * BD
        _sum_side(key + batch * kb + head * kh, kn, kd, sources, out, split, splits, D, BD, BN, ROWS)


@triton.jit
def _flow_side(
    x, stride_n, stride_d, count, other, out, split, splits, eps, flow_eps,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    channels = tl.arange(0, BD)
    inside = tl.where(channels < D, 1.0, 0.0)
    total = tl.zeros((ROWS, BD), tl.float32)
    start, end = _span(count, split, splits, BN)
    following = tile(x, start + tl.arange(0, BN), channels, stride_n, stride_d, end, D, "elu")
    for n in range(start, end, BN):
        s = _sigmoid(following)
        following = tile(x, n + BN + tl.arange(0, BN), channels, stride_n, stride_d, end, D, "elu")
        total += fold(s * (1.0 / _inner(s, other, inside, eps, flow_eps))[:, None], ROWS)
    tl.store(out + channels, tl.sum(total, 0))


@triton.jit
def flows(
    query, qb, qh, qn, qd, key, kb, kh, kn, kd, totals, out, vectors, heads, tokens, sources, splits, rows, eps,
    flow_eps,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Partial `A` (third program index 0) or `B` (1)."""
    row, split = tl.program_id(0), tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    channels = tl.arange(0, BD)
    if tl.program_id(2) == 0:
        key_sum = _total(totals, rows + row, splits, channels, BD)
        _keep(vectors, 1, rows, row, split, channels, key_sum, BD)
        out += (row * splits + split).to(tl.int64) * BD
        query += batch * qb + head * qh
        _flow_side(query, qn, qd, tokens, key_sum, out, split, splits, eps, flow_eps, D, BD, BN, ROWS)
    else:
        query_sum = _total(totals, row, splits, channels, BD)
        _keep(vectors, 0, rows, row, split, channels, query_sum, BD)
        out += ((rows + row) * splits + split).to(tl.int64) * BD
        key += batch * kb + head * kh
        _flow_side(key, kn, kd, sources, query_sum, out, split, splits, eps, flow_eps, D, BD, BN, ROWS)


@triton.jit
def collect(
    key, kb, kh, kn, kd, value, vb, vh, vn, vd, flow, state, vectors, heads, sources, splits, rows, eps, flow_eps,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial `sum k^T v exp(s)` and `Z`."""
    row, split = tl.program_id(0), tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    key += batch * kb + head * kh
    value += batch * vb + head * vh
    channels, columns = tl.arange(0, BD), tl.arange(0, BV)
    inside = tl.where(channels < D, 1.0, 0.0)
    a = _total(flow, row, splits, channels, BD)
    _keep(vectors, 2, rows, row, split, channels, a, BD)
    total = tl.zeros((BD, BV), tl.float32)
    mass = tl.zeros((BN,), tl.float32)
    start, end = _span(sources, split, splits, BN)
    tokens = start + tl.arange(0, BN)
    x = tile(key, tokens, channels, kn, kd, end, D, "elu")
    y = tile(value, tokens, columns, vn, vd, end, DV, "identity")
    for n in range(start, end, BN):
        tokens = n + tl.arange(0, BN)
        k, v = _sigmoid(x), y.to(tl.float32)
        x = tile(key, tokens + BN, channels, kn, kd, end, D, "elu")  # the next ones, ahead of their use
        y = tile(value, tokens + BN, columns, vn, vd, end, DV, "identity")
        s = _inner(k, a, inside, eps, flow_eps)
        weight = tl.where(tokens < end, tl.exp(_clamp(s)), 0.0)
        mass += weight
        total += dot(tl.trans(k), v * weight[:, None], PRECISION)
    place = (row * splits + split).to(tl.int64)
    state += place * (BD * BV + PAD)
    tl.store(state + channels[:, None] * BV + columns[None, :], total)
    tl.store(state + BD * BV, tl.sum(mass, 0))


@triton.jit
def _matrix(state, row, BD: tl.constexpr, BV: tl.constexpr):
    index = tl.arange(0, BD)[:, None] * BV + tl.arange(0, BV)[None, :]
    return tl.load(state + row.to(tl.int64) * (BD * BV + PAD) + index)


@triton.jit
def _mass(state, row, BD: tl.constexpr, BV: tl.constexpr):
    return tl.load(state + row.to(tl.int64) * (BD * BV + PAD) + BD * BV)


@triton.jit
def distribute(
    query, qb, qh, qn, qd, out, ob, oh, on, od, flow, vectors, state, heads, tokens, sources, splits, rows,
    eps, flow_eps,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The output from what was collected."""
    row, split = tl.program_id(0), tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    query += batch * qb + head * qh
    out += batch * ob + head * oh
    channels, columns = tl.arange(0, BD), tl.arange(0, BV)
    inside = tl.where(channels < D, 1.0, 0.0)
    key_sum = _vector(vectors, 1, rows, row, channels, BD)
    b = _total(flow, rows + row, splits, channels, BD)
    _keep(vectors, 3, rows, row, split, channels, b, BD)
    matrix = _matrix(state, row, BD, BV) * (sources / _mass(state, row, BD, BV))
    ratio = tokens * 1.0 / sources
    start, end = _span(tokens, split, splits, BN)
    following = tile(query, start + tl.arange(0, BN), channels, qn, qd, end, D, "elu")
    for n in range(start, end, BN):
        index = n + tl.arange(0, BN)
        q = _sigmoid(following)
        following = tile(query, index + BN, channels, qn, qd, end, D, "elu")
        incoming, allocation = _sinks(q, key_sum, b, inside, ratio, eps, flow_eps)
        x = dot(q, matrix, PRECISION) * (incoming * allocation)[:, None]
        store(out, index, columns, on, od, end, x, DV)


@triton.jit
def collect_backward(
    query, qb, qh, qn, qd, grad, gb, gh, gn, gd, vectors, state, grad_state, grad_b, heads, tokens,
    sources, splits, rows, eps, flow_eps,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial gradients of `M` and `B`, from queries and output gradients."""
    row, split = tl.program_id(0), tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    query += batch * qb + head * qh
    grad += batch * gb + head * gh
    channels, columns = tl.arange(0, BD), tl.arange(0, BV)
    inside = tl.where(channels < D, 1.0, 0.0)
    key_sum = _vector(vectors, 1, rows, row, channels, BD)
    b = _vector(vectors, 3, rows, row, channels, BD)
    matrix = _matrix(state, row, BD, BV) * (sources / _mass(state, row, BD, BV))
    ratio = tokens * 1.0 / sources
    total = tl.zeros((BD, BV), tl.float32)
    total_b = tl.zeros((ROWS, BD), tl.float32)
    start, end = _span(tokens, split, splits, BN)
    index = start + tl.arange(0, BN)
    x = tile(query, index, channels, qn, qd, end, D, "elu")
    y = tile(grad, index, columns, gn, gd, end, DV, "identity")
    for n in range(start, end, BN):
        index = n + tl.arange(0, BN)
        q, g = _sigmoid(x), y.to(tl.float32)
        x = tile(query, index + BN, channels, qn, qd, end, D, "elu")
        y = tile(grad, index + BN, columns, gn, gd, end, DV, "identity")
        incoming, allocation = _sinks(q, key_sum, b, inside, ratio, eps, flow_eps)
        total += dot(tl.trans(q), g * (incoming * allocation)[:, None], PRECISION)
        t = tl.sum(dot(q, matrix, PRECISION) * g, 1)
        grad_sink = t * incoming * allocation * (1.0 - allocation) * ratio
        total_b += fold(grad_sink[:, None] * ((q + eps) * inside[None, :]), ROWS)
    place = (row * splits + split).to(tl.int64)
    offsets = channels[:, None] * BV + columns[None, :]
    tl.store(grad_state + place * (BD * BV + PAD) + offsets, total)
    tl.store(grad_b + place * BD + channels, tl.sum(total_b, 0))


@triton.jit
def keys_backward(
    key, kb, kh, kn, kd, value, vb, vh, vn, vd, grad_key, jb, jh, jn, jd, grad_value, wb, wh, wn, wd,
    vectors, state, grad_state, grad_b, grad_sums, heads, sources, splits, rows, eps, flow_eps,
    LAST: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sweeps keys and values: first partial gradients of `A` and `Q`; with `LAST`, the gradients of keys and values.

    `grad_sums` holds the partial gradients of `A`, `Q` and `K`, in this order.
    """
    row, split = tl.program_id(0), tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    key += batch * kb + head * kh
    value += batch * vb + head * vh
    channels, columns = tl.arange(0, BD), tl.arange(0, BV)
    inside = tl.where(channels < D, 1.0, 0.0)
    query_sum = _vector(vectors, 0, rows, row, channels, BD)
    a = _vector(vectors, 2, rows, row, channels, BD)
    gb = _total(grad_b, row, splits, channels, BD)
    mass = _mass(state, row, BD, BV)
    grad_matrix = _matrix(grad_state, row, BD, BV)
    matrix = _matrix(state, row, BD, BV) * (sources / mass)
    mean = tl.sum(tl.sum(grad_matrix * matrix, 1), 0) / sources  # sum of p_j dc_j
    if LAST:
        grad_key += batch * jb + head * jh
        grad_value += batch * wb + head * wh
        gk = _total(grad_sums, 2 * rows + row, splits, channels, BD)
    total_a = tl.zeros((ROWS, BD), tl.float32)
    total_q = tl.zeros((ROWS, BD), tl.float32)
    start, end = _span(sources, split, splits, BN)
    tokens = start + tl.arange(0, BN)
    x = tile(key, tokens, channels, kn, kd, end, D, "elu")
    y = tile(value, tokens, columns, vn, vd, end, DV, "identity")
    for n in range(start, end, BN):
        tokens = n + tl.arange(0, BN)
        k, v = _sigmoid(x), y.to(tl.float32)
        x = tile(key, tokens + BN, channels, kn, kd, end, D, "elu")  # the next ones, ahead of their use
        y = tile(value, tokens + BN, columns, vn, vd, end, DV, "identity")
        s = _inner(k, a, inside, eps, flow_eps)
        competition = tl.exp(_clamp(s)) * (sources / mass)
        grad_weighted = dot(k, grad_matrix, PRECISION)
        free = (s >= -1.0) & (s <= 1.0) & (tokens < end)
        grad_s = tl.where(free, competition * (tl.sum(grad_weighted * v, 1) - mean), 0.0)
        outgoing = 1.0 / _inner(k, query_sum, inside, eps, flow_eps)
        u = -tl.sum(k * gb[None, :], 1) * outgoing * outgoing
        if LAST:
            gradient = dot(v * competition[:, None], tl.trans(grad_matrix), PRECISION)
            gradient += grad_s[:, None] * (a + eps)[None, :] + outgoing[:, None] * gb[None, :]
            gradient += u[:, None] * (query_sum + eps)[None, :] + gk[None, :]
            store(grad_key, tokens, channels, jn, jd, end, gradient * k * (1.0 - k), D)
            store(grad_value, tokens, columns, wn, wd, end, grad_weighted * competition[:, None], DV)
        else:
            total_a += fold(grad_s[:, None] * (k + eps), ROWS)
            total_q += fold(tl.where(tokens < end, u, 0.0)[:, None] * (k + eps), ROWS)
    if not LAST:
        place = (row * splits + split).to(tl.int64)
        tl.store(grad_sums + place * BD + channels, tl.sum(total_a, 0) * inside)
        place = ((rows + row) * splits + split).to(tl.int64)
        tl.store(grad_sums + place * BD + channels, tl.sum(total_q, 0) * inside)


@triton.jit
def queries_backward(
    query, qb, qh, qn, qd, grad, gb, gh, gn, gd, grad_query, jb, jh, jn, jd, vectors, state, grad_sums,
    heads, tokens, sources, splits, rows, eps, flow_eps,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of queries, and the partial gradient of `K`."""
    row, split = tl.program_id(0), tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    query += batch * qb + head * qh
    grad += batch * gb + head * gh
    grad_query += batch * jb + head * jh
    channels, columns = tl.arange(0, BD), tl.arange(0, BV)
    inside = tl.where(channels < D, 1.0, 0.0)
    key_sum = _vector(vectors, 1, rows, row, channels, BD)
    b = _vector(vectors, 3, rows, row, channels, BD)
    ga = _total(grad_sums, row, splits, channels, BD)
    gq = _total(grad_sums, rows + row, splits, channels, BD)
    matrix = _matrix(state, row, BD, BV) * (sources / _mass(state, row, BD, BV))
    ratio = tokens * 1.0 / sources
    total = tl.zeros((ROWS, BD), tl.float32)
    start, end = _span(tokens, split, splits, BN)
    index = start + tl.arange(0, BN)
    x = tile(query, index, channels, qn, qd, end, D, "elu")
    y = tile(grad, index, columns, gn, gd, end, DV, "identity")
    for n in range(start, end, BN):
        index = n + tl.arange(0, BN)
        q, g = _sigmoid(x), y.to(tl.float32)
        x = tile(query, index + BN, channels, qn, qd, end, D, "elu")
        y = tile(grad, index + BN, columns, gn, gd, end, DV, "identity")
        incoming, allocation = _sinks(q, key_sum, b, inside, ratio, eps, flow_eps)
        back = dot(g, tl.trans(matrix), PRECISION)
        t = tl.sum(back * q, 1)
        grad_sink = t * incoming * allocation * (1.0 - allocation) * ratio
        u = -(t * allocation + tl.sum(q * ga[None, :], 1)) * incoming * incoming
        total += fold(tl.where(index < end, u, 0.0)[:, None] * (q + eps), ROWS)
        gradient = back * (incoming * allocation)[:, None] + incoming[:, None] * ga[None, :]
        gradient += grad_sink[:, None] * (b + eps)[None, :] + u[:, None] * (key_sum + eps)[None, :] + gq[None, :]
        store(grad_query, index, channels, jn, jd, end, gradient * q * (1.0 - q), D)
    place = (2 * rows + row).to(tl.int64) * splits + split
    tl.store(grad_sums + place * BD + channels, tl.sum(total, 0) * inside)
