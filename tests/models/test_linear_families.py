"""Modules of RAVLT, MAViT and L2ViT against the released ones, and what is peculiar to these families."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import visionattn
from tests.ops.cases import relative_error
from visionattn.layers.rotary import AxialRotary
from visionattn.models import _gated_pyramid, l2vit

FIXTURES = Path(__file__).parent.parent / "fixtures"


class OnTokens(nn.Module):
    """A module of channels-last maps on tokens `[B, L, C]` of a map of `size`; square windows without."""

    def __init__(self, module, size=None):
        super().__init__()
        self.module, self.size = module, size

    def forward(self, x):
        side = int(x.shape[1] ** 0.5)
        size = (side, side) if self.size is None else self.size
        return self.module(x.unflatten(1, size)).flatten(1, 2)


class WithAngle(nn.Module):
    def __init__(self, module, head_dim):
        super().__init__()
        self.module, self.angle = module, AxialRotary(head_dim).angle.double()

    def forward(self, x):
        return self.module(x, self.angle)


def gated(attn_type):
    return lambda data: WithAngle(_gated_pyramid.GatedAttention(32, 2, attn_type), 16)


def gated_block(attn_type):
    return lambda data: WithAngle(_gated_pyramid.Block(16, 2, attn_type, 3.5, 1.0), 8)


def tokens(module):
    return lambda data: OnTokens(module(), data["size"].tolist() if "size" in data else (8, 10))


MODULES = {
    "rala/op_attn_linear": gated("rank_augmented"),
    "rala/op_attn_softmax": gated("softmax"),
    "rala/op_block_linear": gated_block("rank_augmented"),
    "mala/op_attn_linear": gated("magnitude_aware"),
    "mala/op_attn_softmax": gated("softmax"),
    "mala/op_block_linear": gated_block("magnitude_aware"),
    "l2vit/op_linattn_module": tokens(lambda: l2vit.LinearAttention(24, 3)),
    "l2vit/op_window_attention": lambda data: OnTokens(l2vit.WindowAttention(24, 3, 7)),
    "l2vit/op_cpe": tokens(lambda: l2vit.DepthwiseConv(16, 3)),
    "l2vit/op_lcm": tokens(lambda: l2vit.LocalConcentration(16, nn.GELU)),
    "l2vit/op_lcm_train": tokens(lambda: l2vit.LocalConcentration(16, nn.GELU)),
    "l2vit/op_lwa_block": tokens(lambda: l2vit.LocalBlock(24, 3, 7, 4.0, 0.0, 0.0, nn.GELU)),
}
RENAMED = {"norm1.norm.": "norm1.", "norm2.norm.": "norm2."}


def load_weights(module, data):
    weights = {}
    for name, value in data.items():
        if name.startswith("w:"):
            name = name.removeprefix("w:")
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            weights[name] = value
    module.module.load_state_dict(weights)
    return dict(module.module.named_parameters())


@pytest.mark.parametrize("name", MODULES)
def test_module(name):
    data = {key: torch.from_numpy(array) for key, array in np.load(FIXTURES / f"{name}.npz").items()}
    module = MODULES[name](data).double().train(name.endswith("_train"))
    parameters = load_weights(module, data)
    x = data["x"].requires_grad_()
    out = module(x)
    if name.endswith("op_cpe"):
        out = out + x  # the shortcut is the block's
    assert relative_error(out, data["out"]) < 1e-10
    leaves = {f"grad_w:{key}": value for key, value in parameters.items() if f"grad_w:{key}" in data}
    grads = torch.autograd.grad(out, [x, *leaves.values()], data["grad_out"])
    for key, grad in zip(("grad_x", *leaves), grads):
        assert relative_error(grad, data[key]) < 1e-10, key
    if "running_var_after" in data:
        for kind in ("mean", "var"):
            statistic = getattr(module.module.bn, f"running_{kind}")
            assert relative_error(statistic, data[f"running_{kind}_after"]) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_angles_stay_wide_in_half_precision(dtype):
    angle = AxialRotary(64).angle
    for model in (timm.create_model("mala_test").to(dtype), timm.create_model("mala_test", dtype=dtype)):
        assert model.stages[0].rope.angle.dtype == torch.float32
        assert model.stages[0].blocks[0].pos.weight.dtype == dtype
    assert torch.equal(AxialRotary(64).to(dtype).angle, angle)
    assert AxialRotary(64).double().angle.dtype == torch.float64
    rebuilt = AxialRotary(64, device="meta").to_empty(device="cpu")
    rebuilt.reset_parameters()
    assert torch.equal(rebuilt.angle, angle)


@pytest.mark.parametrize("prefix", ["ravlt", "mala"])
def test_all_linear(prefix):
    model = timm.create_model(f"{prefix}_test", attn_types=("linear",) * 4)
    assert {m.attn_type for m in model.modules() if hasattr(m, "attn_type")} == {model.linear_attention}


def test_a_checkpoint_of_the_sister_family_is_told_apart():
    ravlt, mala = (timm.create_model(name, device="meta") for name in ("ravlt_t", "mala_t"))
    with pytest.raises(ValueError, match=r"norm\.conv\.weight"):
        visionattn.convert_checkpoint(ravlt.state_dict(), mala)


def test_l2vit_takes_the_raw_weights_of_a_training_checkpoint():
    model = timm.create_model("l2vit_test")
    raw = model.state_dict()
    averaged = {name: torch.zeros_like(value) for name, value in raw.items()}
    weights = visionattn.convert_checkpoint({"model": raw, "model_ema": averaged, "epoch": 299}, model)
    assert torch.equal(weights["head.fc.weight"], raw["head.fc.weight"])


@pytest.mark.parametrize(
    ("name", "kwargs", "match"),
    [
        ("ravlt_test", {"attn_types": ("linear", "sparse", "softmax", "softmax")}, "attn_types must be 'linear' or"),
        ("ravlt_test", {"num_heads": (1, 2)}, "num_heads must have one entry per stage"),
        ("mala_test", {"num_heads": (3, 2, 4, 4)}, "embed_dims must be multiples of 4"),
        ("l2vit_test", {"embed_dims": (16, 32)}, "embed_dims must have one entry per stage"),
        ("l2vit_test", {"num_heads": (3, 2, 4, 4)}, "embed_dims must be multiples of num_heads"),
        ("l2vit_test", {"window_size": 0}, "window_size must be at least 1"),
    ],
)
def test_wrong_arguments(name, kwargs, match):
    with pytest.raises(ValueError, match=match):
        timm.create_model(name, **kwargs)
    with pytest.raises(ValueError, match="head_dim must be a multiple of 4, got 6"):
        AxialRotary(6)
