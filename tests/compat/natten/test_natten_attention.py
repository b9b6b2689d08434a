"""attention, packed sequences, merge_attentions."""

import pytest
import torch
import torch.nn.functional as F

from visionattn.compat import natten
from visionattn.compat.natten import _attention
from visionattn.compat.natten.utils.varlen import generate_varlen_parameters


def _qkv(
    tokens_q: int, tokens_kv: int, batch: int = 2, heads: int = 4, heads_kv: int = 2, dim: int = 8, dim_v: int = 6
):
    generator = torch.Generator().manual_seed(tokens_q + tokens_kv)
    shapes = ((tokens_q, heads, dim), (tokens_kv, heads_kv, dim), (tokens_kv, heads_kv, dim_v))
    return [torch.randn(batch, *s, dtype=torch.float64, generator=generator, requires_grad=True) for s in shapes]


def _dense(query, key, value, is_causal=False, scale=None):
    """Output and lse by the book."""
    repeats = query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(repeats, 2) for x in (key, value))
    logits = torch.einsum("bnhd,bmhd->bhnm", query, key) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), float("-inf"))
    return torch.einsum("bhnm,bmhd->bnhd", logits.softmax(-1), value), logits.logsumexp(-1).transpose(1, 2)


@pytest.mark.parametrize("tokens", [(8, 8), (13, 29), (29, 13), (1, 5)])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("max_logits", [2**24, 200])
def test_output_lse_and_gradients(assert_same, monkeypatch, tokens, is_causal, scale, max_logits):
    monkeypatch.setattr(_attention, "_MAX_LOGITS", max_logits)
    inputs = _qkv(*tokens)
    expected = _dense(*inputs, is_causal, scale)
    grads = [torch.randn_like(x) for x in expected]
    expected_grads = torch.autograd.grad(expected, inputs, grads)
    plain = natten.attention(*inputs, is_causal=is_causal, scale=scale)
    assert_same(plain.detach(), expected[0].detach())
    both = natten.attention(*inputs, is_causal=is_causal, scale=scale, return_lse=True)
    for got, wanted in zip(both, expected):
        assert_same(got.detach(), wanted.detach())
    for got, wanted in zip(torch.autograd.grad(both, inputs, grads), expected_grads):
        assert_same(got, wanted)


@pytest.mark.parametrize("return_lse", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_packed_sequences(assert_same, return_lse, is_causal):
    lengths_q, lengths_kv = [3, 0, 7, 4], [5, 2, 7, 1]
    query, key, value = (x.detach() for x in _qkv(14, 15, batch=1))
    seqlens = [torch.tensor(x, dtype=torch.int32) for x in (lengths_q, lengths_kv)]
    cum_q, cum_kv, max_q, max_kv = generate_varlen_parameters(query, key, value, *seqlens)
    assert (cum_q.tolist(), cum_kv.tolist(), max_q, max_kv) == ([0, 3, 3, 10, 14], [0, 5, 7, 14, 15], 7, 7)
    assert cum_q.dtype == cum_kv.dtype == torch.int32
    parts = [
        _dense(q, k, v, is_causal)
        for q, k, v in zip(query.split(lengths_q, 1), key.split(lengths_kv, 1), value.split(lengths_kv, 1))
    ]
    expected = [torch.cat(x, 1) for x in zip(*parts)]
    by_length = natten.attention(
        query, key, value, is_causal, seqlens_Q=seqlens[0], seqlens_KV=seqlens[1], return_lse=return_lse
    )
    by_offset = natten.attention(
        query, key, value, is_causal, cumulative_seqlen_Q=cum_q, cumulative_seqlen_KV=cum_kv, max_seqlen_Q=max_q,
        max_seqlen_KV=max_kv, return_lse=return_lse,
    )  # fmt: skip
    for got in (by_length, by_offset):
        for x, wanted in zip(got if return_lse else [got], expected):
            assert_same(x, wanted)


def test_queries_without_keys():
    query, key, value = (x.detach() for x in _qkv(3, 4, batch=1))
    lengths = [torch.tensor(x, dtype=torch.int32) for x in ([1, 2], [4, 0])]
    out, lse = natten.attention(query, key, value, seqlens_Q=lengths[0], seqlens_KV=lengths[1], return_lse=True)
    assert torch.isfinite(out).all()
    assert (out[:, 1:] == 0).all()
    assert (lse[:, 1:] == float("-inf")).all()
    plain = natten.attention(query, key, value, seqlens_Q=lengths[0], seqlens_KV=lengths[1])
    assert torch.allclose(plain, out)


def test_without_packing():
    assert generate_varlen_parameters(*_qkv(3, 4), None, None) == (None, None, 0, 0)


def test_merge_matches_the_recorded_one(recorded, assert_same):
    case = recorded("op_merge")
    out, lse = natten.merge_attentions([case[f"out{i}"] for i in range(3)], [case[f"lse{i}"] for i in range(3)])
    assert_same(out, case["merged_out"])
    assert_same(lse, case["merged_lse"])


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_merge_equals_attention_over_all_keys(assert_same, parts):
    query, key, value = _qkv(6, 20)
    expected = _dense(query, key, value)[0]
    grad = torch.randn_like(expected)
    pieces = [
        natten.attention(query, k, v, return_lse=True)
        for k, v in zip(key.tensor_split(parts, 1), value.tensor_split(parts, 1))
    ]
    out, _ = natten.merge_attentions(*map(list, zip(*pieces)), torch_compile=False, use_autograd_fix=True)
    assert_same(out.detach(), expected.detach())
    wanted = torch.autograd.grad(expected, (query, key, value), grad)
    for got, x in zip(torch.autograd.grad(out, (query, key, value), grad), wanted):
        assert_same(got, x)


def test_half_precision_and_empty_batch():
    query, key, value = (x.detach().to(torch.bfloat16) for x in _qkv(5, 5, dim_v=8))
    out, lse = natten.attention(query, key, value, return_lse=True)
    assert out.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    reference = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value)), enable_gqa=True
    ).transpose(1, 2)
    assert (out - reference).norm() <= 2e-2 * reference.norm()
    out, lse = natten.attention(query[:0], key[:0], value[:0], return_lse=True)
    assert out.shape == (0, 5, 4, 8)
    assert lse.shape == (0, 5, 4)


def _int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


ONE = dict(zip(("query", "key", "value"), (torch.zeros(1, 4, 2, 8), torch.zeros(1, 6, 2, 8), torch.zeros(1, 6, 2, 8))))
WRONG = [
    ({"query": torch.zeros(1, 2, 4, 2, 8)}, ValueError, "query"),
    ({"query": None}, TypeError, "query"),
    ({"key": torch.zeros(2, 6, 2, 8)}, ValueError, "key must have batch 1"),
    ({"key": torch.zeros(1, 6, 2, 8).double()}, ValueError, "key must be torch.float32"),
    ({"value": torch.zeros(1, 5, 2, 8)}, ValueError, "value must have"),
    ({"query": torch.zeros(1, 4, 3, 8)}, ValueError, "divides the 3"),
    ({"seqlens_Q": _int32(4)}, ValueError, "go together"),
    ({"cumulative_seqlen_KV": _int32(0, 6)}, ValueError, "go together"),
    ({"seqlens_Q": _int32(4), "seqlens_KV": _int32(5)}, ValueError, "add up to the 6"),
    ({"seqlens_Q": _int32(4), "seqlens_KV": _int32(3, 3)}, ValueError, "differ in number"),
    ({"seqlens_Q": _int32(4).long(), "seqlens_KV": _int32(6)}, TypeError, "seqlens_Q must be an int32"),
    ({"seqlens_Q": _int32(5, -1), "seqlens_KV": _int32(3, 3)}, ValueError, "seqlens_Q"),
    ({"cumulative_seqlen_Q": _int32(1, 5), "cumulative_seqlen_KV": _int32(0, 6)}, ValueError, "start at 0"),
    ({"backend": "cutlass-fna"}, ValueError, "backend"),
    ({"q_tile_size": (8, 8)}, ValueError, "q_tile_size"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        natten.attention(**{**ONE, **change})


def test_wrong_merges_and_batches():
    out, lse = torch.zeros(1, 4, 2, 8), torch.zeros(1, 4, 2)
    with pytest.raises(ValueError, match="at least two"):
        natten.merge_attentions([out], [lse])
    with pytest.raises(TypeError, match="use_autograd_fix"):
        natten.merge_attentions([out, out], [lse, lse], use_autograd_fix=None)
    with pytest.raises(ValueError, match="batch of 1"):
        generate_varlen_parameters(*_qkv(3, 3), _int32(3), _int32(3))
