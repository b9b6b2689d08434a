"""The counter against arithmetic by hand."""

import pytest
import timm
import torch
from torch import nn

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


def test_model_is_left_alone():
    model = timm.create_model("nat_test", in_chans=1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_macs(model, 64) == count_macs(model, (1, 64, 64)) > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrong_size():
    with pytest.raises(ValueError, match="input_size must be an int or"):
        count_macs(nn.Conv2d(3, 8, 1), (64, 64))
