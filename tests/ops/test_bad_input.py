"""Wrong calls of the operators and layers: each gets the right exception, which names the argument."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visionattn import ops
from visionattn.layers import NeighborhoodAttention1D, NeighborhoodAttention2D


def t(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device=device)


def na2d(query=None, key=None, value=None, kernel_size=3, **options):
    default = t(1, 6, 6, 2, 8)
    query, key, value = (default if x is None else x for x in (query, key, value))
    return ops.na2d(query, key, value, kernel_size, **options)


CASES = {
    # name: (call, exception, words of the message)
    "query is an array": (lambda: na2d([[1.0]]), TypeError, "query must be a torch.Tensor, got list"),
    "query of another rank": (lambda: na2d(t(6, 6, 2, 8)), ValueError, "query must have 5 axes, got 4"),
    "query of a 3-D map": (lambda: na2d(t(1, 2, 6, 6, 2, 8)), ValueError, "query must have 5 axes, got 6"),
    "integer query": (lambda: na2d(t(1, 6, 6, 2, 8, dtype=torch.int64)), TypeError, "query must be float16"),
    "complex query": (lambda: na2d(t(1, 6, 6, 2, 8, dtype=torch.complex64)), TypeError, "complex64"),
    "float8 query": (lambda: na2d(t(1, 6, 6, 2, 8).to(torch.float8_e4m3fn)), TypeError, "float8"),
    "sparse query": (lambda: na2d(t(1, 6, 6, 2, 8).to_sparse()), TypeError, "query must be a dense tensor"),
    "no heads": (lambda: na2d(t(1, 6, 6, 0, 8)), ValueError, "at least one position, head and channel"),
    "empty map": (lambda: na2d(t(1, 0, 6, 2, 8)), ValueError, "at least one position"),
    "key of another dtype": (lambda: na2d(key=t(1, 6, 6, 2, 8).half()), TypeError, "key must have the dtype of query"),
    "value of another dtype": (lambda: na2d(value=t(1, 6, 6, 2, 8).double()), TypeError, "value must have the dtype"),
    "key on another device": (
        lambda: na2d(key=t(1, 6, 6, 2, 8, device="meta")),
        ValueError,
        "key must be on the device",
    ),
    "key of another map": (lambda: na2d(key=t(1, 6, 5, 2, 8)), ValueError, "key must have shape"),
    "key of another batch": (lambda: na2d(key=t(2, 6, 6, 2, 8)), ValueError, "key must have shape"),
    "key of another head_dim": (lambda: na2d(key=t(1, 6, 6, 2, 4)), ValueError, "key must have shape"),
    "heads that don't divide": (
        lambda: na2d(t(1, 6, 6, 3, 8), t(1, 6, 6, 2, 8), t(1, 6, 6, 2, 8)),
        ValueError,
        "key must have a number of heads that divides the 3 of query, got 2",
    ),
    "value of other heads": (lambda: na2d(value=t(1, 6, 6, 1, 8)), ValueError, "value must have shape"),
    "value without channels": (
        lambda: na2d(value=t(1, 6, 6, 2, 0)),
        ValueError,
        "value must have at least one channel",
    ),
    "kernel of 1": (lambda: na2d(kernel_size=1), ValueError, "kernel_size must be at least 2"),
    "negative kernel": (lambda: na2d(kernel_size=(3, -3)), ValueError, "kernel_size must be at least 2.*axis 1"),
    "kernel of floats": (lambda: na2d(kernel_size=3.0), TypeError, "kernel_size must be int"),
    "kernel of bools": (lambda: na2d(kernel_size=True), TypeError, "kernel_size must be int"),
    "kernel as a string": (lambda: na2d(kernel_size="33"), TypeError, "kernel_size must be int"),
    "kernel of None": (lambda: na2d(kernel_size=None), TypeError, "kernel_size must be int"),
    "kernel of three axes": (lambda: na2d(kernel_size=(3, 3, 3)), ValueError, "kernel_size must have 2 entries"),
    "kernel beyond the map": (lambda: na2d(kernel_size=7), ValueError, "must not exceed the map: 7 . 1 > 6 on axis 0"),
    "dilation beyond the map": (lambda: na2d(dilation=(1, 3)), ValueError, "3 . 3 > 6 on axis 1"),
    "dilation of 0": (lambda: na2d(dilation=0), ValueError, "dilation must be at least 1"),
    "stride of 0": (lambda: na2d(stride=0), ValueError, "stride must be from 1 to kernel_size=3"),
    "stride beyond the kernel": (lambda: na2d(stride=4), ValueError, "stride must be from 1 to kernel_size=3, got 4"),
    "is_causal of ints": (lambda: na2d(is_causal=(1, 0)), TypeError, "is_causal must be bool"),
    "rpb of another table": (lambda: na2d(rpb=t(2, 5, 4)), ValueError, "rpb must have shape"),
    "rpb of other heads": (lambda: na2d(rpb=t(1, 5, 5)), ValueError, "rpb must have shape"),
    "rpb of ints": (lambda: na2d(rpb=t(2, 5, 5, dtype=torch.int32)), TypeError, "rpb must be float16"),
    "rpb with a causal axis": (
        lambda: na2d(rpb=t(2, 5, 5), is_causal=(True, False)),
        NotImplementedError,
        "rpb with a causal axis",
    ),
    "half of the additional tokens": (lambda: na2d(additional_keys=t(1, 2, 2, 8)), ValueError, "go together"),
    "additional tokens of other heads": (
        lambda: na2d(additional_keys=t(1, 2, 1, 8), additional_values=t(1, 2, 1, 8)),
        ValueError,
        "additional_keys must have shape",
    ),
    "additional values of another count": (
        lambda: na2d(additional_keys=t(1, 2, 2, 8), additional_values=t(1, 3, 2, 8)),
        ValueError,
        "additional_values must have shape",
    ),
    "unknown backend": (lambda: na2d(backend="cutlass"), ValueError, "backend must be 'auto' or 'reference'"),
    "unfused key of another shape": (
        lambda: ops.na1d_qk(t(1, 2, 6, 8), t(1, 2, 5, 8), 3),
        ValueError,
        "key must have shape",
    ),
    "unfused without enough weights": (
        lambda: ops.na1d_av(t(1, 2, 6, 5), t(1, 2, 6, 8), 3),
        ValueError,
        "attn must have shape",
    ),
    "unfused rpb and causal": (
        lambda: ops.na1d_qk(t(1, 2, 6, 8), t(1, 2, 6, 8), 3, is_causal=True, rpb=t(2, 5)),
        NotImplementedError,
        "causal",
    ),
    "merge of nothing": (lambda: ops.merge_attentions([], []), ValueError, "at least 1"),
    "merge of a tensor": (lambda: ops.merge_attentions(t(2, 1, 2, 4), t(2, 1, 2)), TypeError, "sequences of tensors"),
    "merge of other shapes": (
        lambda: ops.merge_attentions([t(1, 4, 2, 8), t(1, 5, 2, 8)], [t(1, 4, 2), t(1, 5, 2)]),
        ValueError,
        r"outputs\[1\] must have shape",
    ),
    "merge without an lse": (lambda: ops.merge_attentions([t(1, 4, 2, 8)], []), ValueError, "same length"),
    "layer: heads that don't divide": (lambda: NeighborhoodAttention2D(30, 4, 3), ValueError, "multiple of num_heads"),
    "layer: padding": (lambda: NeighborhoodAttention2D(32, 4, 3, padding="same"), ValueError, "padding must be one of"),
    "layer: bias and causal": (
        lambda: NeighborhoodAttention1D(32, 4, 3, is_causal=True, rel_pos_bias=True),
        NotImplementedError,
        "causal",
    ),
    "layer: dropout and stride": (
        lambda: NeighborhoodAttention1D(32, 4, 3, stride=2, attn_drop=0.1),
        NotImplementedError,
        "attn_drop",
    ),
    "layer: map too small": (
        lambda: NeighborhoodAttention2D(32, 4, 7, padding="error")(t(1, 5, 9, 32)),
        ValueError,
        "must not exceed the map",
    ),
    "raw operator: key of another map": (
        lambda: torch.ops.visionattn.neighborhood_attention(
            t(1, 6, 6, 2, 8), t(1, 5, 6, 2, 8), t(1, 5, 6, 2, 8), None, None, None, [3, 3], [1, 1], [1, 1], [0, 0], 1.0
        ),
        RuntimeError,
        "key has shape",
    ),
    "raw operator: stride of 0": (
        lambda: torch.ops.visionattn.neighborhood_attention(
            *[t(1, 6, 2, 8)] * 3, None, None, None, [3], [0], [1], [0], 1.0
        ),
        RuntimeError,
        "stride is 0",
    ),
    "raw operator: bias of another table": (
        lambda: torch.ops.visionattn.neighborhood_qk(*[t(1, 2, 6, 8)] * 2, t(2, 4), [3], [1], [0]),
        RuntimeError,
        "rpb has shape",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_call(name: str):
    call, exception, message = CASES[name]
    with pytest.raises(exception, match=message):
        call()
