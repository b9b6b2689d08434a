"""Token mixers against recorded layers, and in the place of a ViT's attention."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from tests.ops.cases import relative_error
from tests.parity import FIXTURES
from visionattn.layers import (
    CircularAttention,
    FlowAttention,
    FocusedLinearAttention,
    HedgehogAttention,
    LinearAttention,
    replace_attention,
)
from visionattn.layers.replace_attention import TOKEN_MIXERS

each_mixer = pytest.mark.parametrize("name", TOKEN_MIXERS)


def load(name: str) -> dict[str, Tensor]:
    arrays = np.load(FIXTURES / "linear_attention" / f"op_{name}.npz")
    return {key: torch.from_numpy(np.array(x)) for key, x in arrays.items()}


@pytest.mark.parametrize("name", ["flow_attention_vision_layer", "focused_linear_attention"])
def test_recorded_layer(name: str):
    data = load(name)
    x = data["x"].requires_grad_()
    options = dict(num_heads=int(data["num_heads"]), dtype=torch.float64)
    if name.startswith("flow"):
        layer = FlowAttention(x.shape[2], **options)
    else:
        layer = FocusedLinearAttention(x.shape[2], size=(int(data["H"]), int(data["W"])), **options)
    layer.load_state_dict({key[6:]: value for key, value in data.items() if key.startswith("param:")})
    out = layer(x)
    assert relative_error(out, data["out"]) < 1e-10
    out.backward(data["grad_out"])
    assert relative_error(x.grad, data["grad_x"]) < 1e-10
    for key, parameter in layer.named_parameters():
        assert relative_error(parameter.grad, data[f"grad:{key}"]) < 1e-10, key


@pytest.mark.parametrize("name", ["local", "down"])
def test_recorded_disc(name: str):
    data = load(f"clear_{name}_t0")
    x = data["x"].requires_grad_()
    layer = CircularAttention(
        x.shape[2], int(data["num_heads"]), radius=int(data["window"]), pool=4 * (name == "down"), dtype=torch.float64
    )
    with torch.no_grad():
        layer.qkv.weight.copy_(torch.cat([data[f"w{part}"] for part in "qkv"]))
        layer.qkv.bias.copy_(torch.cat([data[f"b{part}"] for part in "qkv"]))
        if name == "down":
            layer.spatial_weight.copy_(data["spatial_weight"])
    layer.proj = nn.Identity()
    out = layer(x, (int(data["H"]), int(data["W"])))
    assert relative_error(out, data["out"]) < 1e-10
    out.backward(data["grad_out"])
    assert relative_error(x.grad, data["grad_x"]) < 1e-10


def vit(**options) -> nn.Module:
    torch.manual_seed(0)
    arguments = dict(img_size=(32, 48), embed_dim=32, depth=2, num_heads=2, num_classes=5, qk_norm=True)
    return timm.create_model("vit_tiny_patch16_224", **{**arguments, **options}).eval()


@each_mixer
@pytest.mark.parametrize("class_token", [True, False])
def test_replacement_keeps_everything_else(name: str, class_token: bool):
    model = vit(class_token=class_token, global_pool="avg")
    weights = copy.deepcopy(model.state_dict())
    replaced = replace_attention(model, name)
    assert replaced is model
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in weights.items())
    assert all(".attn." in key for key in own if key not in weights)
    logits = model(torch.randn(2, 3, 32, 48))
    logits.sum().backward()
    assert logits.shape == (2, 5)
    assert all(p.grad is not None for p in model.parameters())


@each_mixer
def test_replaced_models_compile_and_export(name: str):
    model, x = replace_attention(vit(), name), torch.randn(2, 3, 32, 48)
    expected = model(x)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    more = torch.randn(3, 3, 32, 48)
    torch.testing.assert_close(program.module()(more), model(more))


def test_linear_attention_of_one_token_is_its_value():
    layer = LinearAttention(16, 2)
    x = torch.randn(3, 1, 16)
    value = layer.qkv(x)[..., 32:]
    torch.testing.assert_close(layer(x), layer.proj(value), rtol=1e-4, atol=1e-5)


def test_wide_disc_is_softmax_attention():
    model, x = vit(), torch.randn(2, 3, 32, 48)
    expected = model(x)
    torch.testing.assert_close(replace_attention(model, "clear", radius=100)(x), expected)


@pytest.mark.parametrize("dynamic", [True, False])
def test_grid_follows_the_images(dynamic: bool):
    model = replace_attention(vit(dynamic_img_size=dynamic), "clear", radius=2)
    twin = copy.deepcopy(model)
    if not dynamic:
        twin.set_input_size((64, 32))
    assert twin(torch.randn(1, 3, 64, 32)).shape == (1, 5)
    assert twin.blocks[0].attn.size == (4, 2)
    model(torch.randn(1, 3, 32, 48))
    assert model.blocks[0].attn.size == (2, 3)


@pytest.mark.parametrize("tied", [True, False])
def test_hedgehog_maps(tied: bool):
    layer = HedgehogAttention(16, 2, tied=tied)
    names = {name for name, _ in layer.named_parameters() if "feature_map" in name}
    assert names == {f"feature_map_{x}.mlp.layer" for x in ("q" if tied else "qk")}
    assert torch.equal(layer.feature_map_q.mlp.layer[1], torch.eye(8))
    optimizer = torch.optim.Adam([layer.get_parameter(name) for name in names], lr=1e-2)
    x = torch.randn(2, 9, 16)
    losses = []
    for _ in range(20):
        loss = layer.distillation_loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert layer.qkv.weight.grad is None


WRONG = {
    "name": (lambda: replace_attention(vit(), "performer"), "name must be one of 'flow'"),
    "model": (lambda: replace_attention(nn.Linear(3, 3), "flow"), "model must have attention of timm's class"),
    "heads": (lambda: FlowAttention(10, 3), "dim must be a multiple of num_heads"),
    "size": (lambda: FocusedLinearAttention(16, 2), "size must be the height and width of the grid"),
    "kernel": (lambda: TOKEN_MIXERS["lit"](16, 2, kernel_size=4), "kernel_size must be odd"),
    "radius": (lambda: CircularAttention(16, 2, radius=0), "radius must be positive"),
    "grid": (lambda: CircularAttention(16, 2)(torch.zeros(1, 7, 16)), "hw must be the height and width of a grid"),
    "mask": (lambda: FlowAttention(16, 2)(torch.zeros(1, 4, 16), is_causal=True), "attn_mask must be None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case: str):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call()
