"""Attention maps against their definition, and on whole models."""

import pytest
import timm
import torch

from visionattn import ops
from visionattn.layers import NeighborhoodAttention2D
from visionattn.utils.attention_maps import attention_layers, attention_map, attention_received


def dense_received(layer, x):
    """By definition: softmax over every query's window, summed per key, over the same with equal weights."""
    query, key, _ = layer.qkv(x).unflatten(-1, (3, layer.num_heads, layer.head_dim)).unbind(-3)
    size = x.shape[1] * x.shape[2]
    one_hot = torch.eye(size).reshape(1, *x.shape[1:3], 1, size).expand(len(x), -1, -1, layer.num_heads, -1)
    shape = (layer.kernel_size, 1, layer.dilation)
    weights = ops.na2d(query, key, one_hot, *shape, rpb=layer.rpb)  # values that name the keys
    even = ops.na2d(query * 0, key, one_hot, *shape)
    return (weights.sum((1, 2)) / even.sum((1, 2))).unflatten(-1, x.shape[1:3])


@pytest.mark.parametrize("dilation", [1, 2])
def test_attention_received(dilation):
    torch.manual_seed(0)
    layer = NeighborhoodAttention2D(16, 2, 3, dilation=dilation, rel_pos_bias=True)
    x = torch.randn(2, 7, 6, 16) * 3
    with torch.no_grad():
        expected = dense_received(layer, x)
    torch.testing.assert_close(attention_received(layer, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "stage", "size"),
    [
        ("dinat_test", 0, (16, 12)),
        ("dinat_test", -1, (2, 2)),
        ("vitrpb_test", 0, None),
        ("nat_isotropic_test", -1, None),
    ],
)
def test_attention_map(name, stage, size):
    net = timm.create_model(name).eval()
    images = torch.randn(2, 3, 64, 48)
    found = attention_map(net, images, stage)
    assert found.shape[0] == 2
    assert size is None or found.shape[1:] == size
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert found.mean().item() == pytest.approx(1, abs=0.2)
    assert not net.stages[0].blocks[0].attn._forward_pre_hooks if hasattr(net, "stages") else True


def test_the_layers_of_a_stage():
    net = timm.create_model("dinat_test")
    assert len(attention_layers(net, 2)) == len(net.stages[2].blocks)


@pytest.mark.parametrize(
    ("name", "stage"), [("dinat_test", 4), ("dinat_test", -5), ("test_convnext", 0), ("test_resnet", 0)]
)
def test_stages_without_attention(name, stage):
    with pytest.raises(ValueError, match="stage"):
        attention_layers(timm.create_model(name), stage)


def test_layers_of_another_kind():
    with pytest.raises(TypeError, match="got Linear"):
        attention_received(torch.nn.Linear(3, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(NotImplementedError, match="strided or causal"):
        attention_received(NeighborhoodAttention2D(16, 2, 3, stride=2), torch.zeros(1, 7, 7, 16))
