"""Parts of DualToken-ViT against its recorded definition, and checkpoints of other grids."""

import numpy as np
import pytest
import timm
import torch
from timm.layers import LayerNorm
from torch import nn

import visionattn
from tests.ops.cases import relative_error
from tests.parity import FIXTURES, assert_matches, fill, image, load_fixture, official_state_dict
from visionattn.models import _dualtoken

COMMON = dict(act=nn.GELU(), norm_layer=LayerNorm, dtype=torch.float64)


def load(name):
    return {key: torch.from_numpy(np.array(x)) for key, x in np.load(FIXTURES / "dualtoken" / f"op_{name}.npz").items()}


def token_module(data, channels, mlp):
    heads, grid, steps = (int(data[key]) for key in ("heads", "grid", "steps"))
    return _dualtoken.TokenModule(channels, heads, grid, steps, mlp, 0.5, **COMMON)


def build(name, data):
    """The module, and how to call it with the recorded inputs."""
    channels = data["in_x"].shape[-1]
    if name.startswith("ptm"):
        return token_module(data, channels, "normal" if "normal" in name else "mix"), lambda m, x, g: m(x, g)
    if name == "conv_encoder":
        return _dualtoken.ConvEncoder(channels, 4, **COMMON), lambda m, x: (m(x),)
    if name == "bidim_attn":
        return _dualtoken.BiDimAttention(channels, **COMMON), lambda m, x: (m(x),)
    if name == "downsample":
        return _dualtoken.PatchMerge(channels, 12, LayerNorm, dtype=torch.float64), lambda m, x, g: m((x, g))
    last = name == "block_last"
    ptm = token_module(data, channels, "normal" if last else "mix")
    ratios = (float(data["conv_ratio"]), float(data["mlp_ratio"]))
    return _dualtoken.DualTokenBlock(channels, *ratios, ptm, is_last=last, **COMMON), lambda m, x, g: m((x, g))


@pytest.mark.parametrize(
    "name", ["ptm_mix", "ptm_normal", "ptm_steps2", "conv_encoder", "bidim_attn", "downsample", "block", "block_last"]
)
def test_recorded_part(name):
    data = load(name)
    module, call = build(name, data)
    module.load_state_dict({key[6:]: value for key, value in data.items() if key.startswith("param_")})
    inputs = {key[3:]: data[key].requires_grad_() for key in ("in_x", "in_g") if key in data}
    outputs = call(module, *inputs.values())
    loss = 0.0
    for i, out in enumerate(outputs):
        assert relative_error(out, data[f"out_{i}"]) < 1e-10
        loss = loss + (out * data[f"grad_out_{i}"]).sum()
    loss.backward()
    for key, x in inputs.items():
        assert relative_error(x.grad, data[f"grad_in_{key}"]) < 1e-10, key
    for key, parameter in module.named_parameters():
        assert relative_error(parameter.grad, data[f"grad_param_{key}"]) < 1e-10, key


def test_to_grid():
    data = load("to_grid")
    for i in range(7):
        height, width, side = data[f"size_{i}"].tolist()
        x = image((1, height, width, 2), 20 + i).requires_grad_()
        out = _dualtoken.to_grid(x, side)
        expected = data[f"out_{i}"]
        assert relative_error(out[..., : expected.shape[-1]], expected) < 1e-10
        if f"grad_in_{i}" in data:
            out.backward(data[f"grad_out_{i}"])
            assert relative_error(x.grad, data[f"grad_in_{i}"]) < 1e-10


def test_gradients_of_a_whole_model():
    fixture = load_fixture("dualtoken", "dualtoken_vit_test")
    backward = fixture["backward"]
    model = timm.create_model("dualtoken_vit_test", num_classes=10).eval()
    model.load_state_dict(visionattn.convert_checkpoint(official_state_dict(fixture), model))
    x = image(**fixture["cases"][0]["input"]).requires_grad_()
    model.double()
    logits = model(x)
    loss = (logits * torch.from_numpy(fill("loss", logits.shape))).sum()
    assert loss.item() == pytest.approx(backward["loss_value"], rel=1e-9)
    loss.backward()
    assert_matches("input", x.grad, backward["input_grad"], 1e-9)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("token_mlp", ["mix", "normal"])
def test_another_grid(token_mlp):
    source = timm.create_model("dualtoken_vit_test", token_mlp=token_mlp)
    model = timm.create_model("dualtoken_vit_test", token_mlp=token_mlp, grid=5).eval()
    model.load_state_dict(visionattn.convert_checkpoint(source.state_dict(), model))
    assert model.global_tokens.shape == (1, 25, 32)
    assert model(torch.randn(1, 3, 64, 96)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (32, 64)}, "must have one entry per stage"),
        ({"dims": (30, 64, 96)}, "dims must be multiples of 32"),
        ({"token_mlp": "conv"}, "token_mlp must be 'mix' or 'normal'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("dualtoken_vit_test", **options)
