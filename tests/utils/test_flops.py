"""The counter against arithmetic by hand."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from visionattn import ops
from visionattn.layers import NeighborhoodAttention2D
from visionattn.utils import count_macs


class Attention(nn.Module):
    in_chans = 3

    def __init__(self, **kwargs):
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 1)
        self.attn = NeighborhoodAttention2D(32, 4, **kwargs)

    def forward(self, x):
        return self.attn(self.embed(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("kwargs", "keys"),
    [
        (dict(kernel_size=7), 49),
        (dict(kernel_size=(3, 5), dilation=2, rel_pos_bias=True), 15),
        (dict(kernel_size=5, stride=2), 25),
    ],
)
def test_attention(kwargs, keys):
    tokens = 14 * 20
    expected = tokens * (3 * 32 + 4 * 32 * 32 + 2 * keys * 32)
    assert count_macs(Attention(**kwargs), (3, 14, 20)) == expected
    assert count_macs(Attention(**kwargs), (3, 14, 20), batch_size=3) == 3 * expected


@pytest.mark.parametrize(
    ("run", "forward"),
    [
        (lambda q: ops.na2d(q, q, q, (3, 5)), 2 * 15),
        (lambda q: ops.na2d(q, q, q, 3, additional_keys=q[:, 0], additional_values=q[:, 0]), 2 * (9 + 8)),
        (lambda q: ops.na2d_qk(q, q, (3, 5)), 15),
        (lambda q: ops.na2d_av(q.new_ones(*q.shape[:-1], 15), q, (3, 5)), 15),
    ],
    ids=["na2d", "additional_keys", "qk", "av"],
)
def test_operators(run, forward):
    q = torch.randn(2, 6, 8, 8, 8)  # a valid shape heads-last and heads-first
    with FlopCounterMode(display=False) as counter:
        run(q)
    assert counter.get_total_flops() == 2 * forward * q.numel()


def test_backward_counts_five_products_for_two():
    attn = NeighborhoodAttention2D(32, 4, 3)
    with FlopCounterMode(display=False) as counter:
        attn(torch.randn(1, 6, 6, 32)).sum().backward()
    flops = counter.get_flop_counts()["Global"]
    forward = flops[torch.ops.visionattn.neighborhood_attention_qkv]
    assert forward == 2 * 2 * 9 * 36 * 32
    assert flops[torch.ops.visionattn.neighborhood_attention_qkv_backward] == forward * 5 // 2


def test_model_is_left_alone():
    model = timm.create_model("nat_test", in_chans=1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_macs(model, 64) == count_macs(model, (1, 64, 64)) > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrong_size():
    with pytest.raises(ValueError, match="input_size must be an int or"):
        count_macs(nn.Conv2d(3, 8, 1), (64, 64))
