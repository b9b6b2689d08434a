"""The unfused operators, with and without a kernel size."""

import pytest
import torch

from visionattn import ops
from visionattn.compat import natten
from visionattn.compat.natten import functional, v0_14, v0_17


@pytest.mark.parametrize("name", ["qk_av_1d", "qk_av_2d", "qk_av_2d_causal"])
def test_recorded_values_and_gradients(recorded, assert_same, name):
    case = recorded(f"op_{name}")
    q, k, v = (case[key].requires_grad_() for key in "qkv")
    rpb = case["rpb"].requires_grad_() if "rpb" in case else None
    rank = q.dim() - 3
    area = {key: case[key] for key in ("kernel_size", "dilation", "is_causal")}
    attn = getattr(functional, f"na{rank}d_qk")(q, k, **area, rpb=rpb)
    weights = case["attn_softmax"].requires_grad_()
    out = getattr(functional, f"na{rank}d_av")(weights, v, **area)
    attn.backward(case["grad_attn"])
    out.backward(case["grad_out"])
    assert_same(attn.detach(), case["attn"])
    assert_same(out.detach(), case["out"])
    for key, x in (("q", q), ("k", k), ("v", v), ("attn", weights)):
        assert_same(x.grad, case[f"d_{key}"])
    if rpb is not None:
        assert_same(rpb.grad, case["d_rpb"])


def _tensors(rank: int, kernel_size: int):
    generator = torch.Generator().manual_seed(rank)
    query, key, value = torch.randn(3, 1, 2, *(7, 6, 8)[:rank], 4, dtype=torch.float64, generator=generator)
    rpb = torch.randn(2, *[2 * kernel_size - 1] * rank, dtype=torch.float64, generator=generator)
    return query, key, value, rpb


@pytest.mark.parametrize("module", [natten, functional, v0_14, v0_17], ids=lambda m: m.__name__)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_way_to_give_the_window(module, rank):
    query, key, value, rpb = _tensors(rank, 3)
    qkrpb, qk, av = (getattr(module, f"natten{rank}d{kind}") for kind in ("qkrpb", "qk", "av"))
    logits = getattr(ops, f"na{rank}d_qk")(query, key, 3, 2, rpb=rpb)
    assert torch.equal(qkrpb(query, key, rpb, 3, 2), logits)
    assert torch.equal(qkrpb(query, key, rpb, 2), logits)  # up to 0.14.4
    assert torch.equal(qkrpb(query, key, rpb, dilation=2), logits)
    assert torch.equal(qkrpb(query, key, rpb, 3, dilation=2), logits)
    assert torch.equal(qkrpb(query, key, rpb, kernel_size=3, dilation=2), logits)
    plain = getattr(ops, f"na{rank}d_qk")(query, key, 3, 1)
    assert torch.equal(qkrpb(query, key, None, 3, 1), plain)
    assert torch.equal(qk(query, key, 3, 1), plain)
    weights = logits.softmax(-1)
    out = getattr(ops, f"na{rank}d_av")(weights, value, 3, 2)
    assert torch.equal(av(weights, value, 3, 2), out)
    assert torch.equal(av(weights, value, 2), out)  # up to 0.14.4
    assert torch.equal(av(weights, value, kernel_size=3, dilation=2), out)


def test_fused_and_unfused_agree(assert_same):
    query, key, value, rpb = _tensors(2, 3)
    weights = functional.natten2dqkrpb(query * 0.5, key, rpb, 3, 2).softmax(-1)
    unfused = functional.natten2dav(weights, value, 3, 2)
    fused = functional.na2d(*(x.permute(0, 2, 3, 1, 4) for x in (query, key, value)), 3, 2, False, rpb, 0.5)
    assert_same(fused.permute(0, 3, 1, 2, 4), unfused)


def test_wrong_windows():
    query, key, value, rpb = _tensors(2, 3)
    weights = functional.natten2dqk(query, key, 3).softmax(-1)
    with pytest.raises(TypeError, match="natten2dqkrpb takes kernel_size and dilation once each"):
        functional.natten2dqkrpb(query, key, rpb, 3, 2, 1)
    with pytest.raises(TypeError, match="natten2dav takes kernel_size and dilation once each"):
        functional.natten2dav(weights, value, 3, 2, dilation=1)
    with pytest.raises(TypeError, match="without kernel_size needs rpb with 3 axes"):
        functional.natten2dqkrpb(query, key, None, 2)
    with pytest.raises(ValueError, match=r"needs attn with k \*\* 2 entries"):
        functional.natten2dav(weights[..., :8], value, 2)
    with pytest.raises(ValueError, match="rpb must have shape"):
        functional.natten2dqkrpb(query, key, rpb, 5, 1)
