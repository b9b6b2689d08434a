"""The layers of attentive convolution against recorded results of the released code."""

import numpy as np
import pytest
import torch

from tests.models.recorded_blocks import assert_block_matches
from tests.parity import FIXTURES
from visionattn.layers import AttentiveConv, AttentiveConv2d

MAPS = np.load(FIXTURES / "attnet" / "op_atconv.npz")
TOKENS = np.load(FIXTURES / "attnet" / "op_sit_atconv.npz")


@pytest.mark.parametrize("case", sorted({name.partition("/")[0] for name in MAPS.files}))
def test_maps(case):
    assert_block_matches(MAPS, case, AttentiveConv2d(MAPS[f"{case}/x"].shape[1], kernel_size=int(case[1])))


@pytest.mark.parametrize(("case", "activation"), [("sit", "gelu_tanh"), ("repa", "silu")])
def test_tokens(case, activation):
    def rename(state):
        return {name: value.flatten(1) if value.dim() == 4 else value for name, value in state.items()}

    assert_block_matches(TOKENS, case, AttentiveConv(8, activation=activation), rename, extra=((6, 6),))


def test_tokens_and_maps_agree():
    torch.manual_seed(0)
    maps, tokens = AttentiveConv2d(6), AttentiveConv(6)
    tokens.load_state_dict({n: x.flatten(1) if x.dim() == 4 else x for n, x in maps.state_dict().items()})
    x = torch.randn(2, 6, 4, 7)
    out = tokens(x.flatten(2).transpose(1, 2), (4, 7))
    torch.testing.assert_close(out.transpose(1, 2).unflatten(2, (4, 7)), maps(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"x must have size\[0\] \* size\[1\] = 4 \* 6 tokens, got 28"):
        tokens(x.flatten(2).transpose(1, 2), (4, 6))


def test_wrong_activation():
    with pytest.raises(ValueError, match="activation must be one of 'gelu', 'gelu_tanh', 'silu', got 'relu'"):
        AttentiveConv2d(4, activation="relu")
