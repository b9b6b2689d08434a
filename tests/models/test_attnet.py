"""AttNet's parts, its checkpoints, and its options."""

import numpy as np
import pytest
import timm
import torch

import visionattn
from tests.models.recorded_blocks import assert_block_matches
from tests.parity import FIXTURES, load_fixture, official_state_dict
from visionattn.models import attnet

GLU = np.load(FIXTURES / "attnet" / "op_glu.npz")
BLOCK = np.load(FIXTURES / "attnet" / "op_block.npz")


def within(official, ours):
    """Names within a module, by the checkpoint filter's rules."""

    def rename(state):
        renamed = attnet._our_names({official + name: value for name, value in state.items()})
        return {name.removeprefix(ours): value for name, value in renamed.items()}

    return rename


@pytest.mark.parametrize(("case", "glu_norm"), [("dw", None), ("dw_rms", "rms")])
def test_gated_mlp(case, glu_norm):
    rename = within("stages.0.0.channel_mixer.", "stages.0.blocks.0.mlp.")
    assert_block_matches(GLU, case, attnet.ConvGlu(6, 10, glu_norm), rename)


@pytest.mark.parametrize(
    ("case", "arguments"), [("block_T", dict(glu_norm="rms", ls_init_value=1e-6)), ("block_S", {})]
)
def test_block(case, arguments):
    block = attnet.Block(6, 16, **arguments)
    assert_block_matches(BLOCK, case, block, within("stages.0.0.", "stages.0.blocks.0."))


def test_variance_norm_is_the_earlier_formula():
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    norm = attnet.VarianceNorm2d(5, dtype=torch.float64)
    expected = x / (x.var(1, unbiased=True, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)
    assert isinstance(timm.create_model("attnet_test", glu_norm="variance").stages[0].blocks[0].mlp.norm, type(norm))


def with_norms(state):
    """A released file of a small variant that has norms in its MLPs."""
    hidden = {name: value.shape[0] for name, value in state.items() if name.endswith("channel_mixer.dwconv.bias")}
    norms = {name.replace("dwconv.bias", "norm_layer.weight"): torch.ones(size) for name, size in hidden.items()}
    return {**state, **norms}


def test_the_file_decides_on_norms_and_layer_scales(tmp_path, caplog):
    official = official_state_dict(load_fixture("attnet", "attnet_xxs"))
    normed = with_norms(official)
    assert attnet.infer_arguments({"model_ema": normed}) == dict(glu_norm=True, use_layer_scale=False)
    plain = timm.create_model("attnet_xxs", device="meta")
    with pytest.raises(ValueError, match="state_dict is of a model with glu_norm=True: pass that"):
        visionattn.convert_checkpoint(normed, plain)
    model = timm.create_model("attnet_xxs", glu_norm=True)
    model.load_state_dict(visionattn.convert_checkpoint(normed, model))
    with pytest.raises(ValueError, match="glu_norm=False"):
        visionattn.convert_checkpoint(official, model)
    torch.save({"model": normed}, tmp_path / "checkpoint.pth")
    overlay = dict(file=str(tmp_path / "checkpoint.pth"))
    loaded = timm.create_model("attnet_xxs", pretrained=True, pretrained_cfg_overlay=overlay)
    assert "attnet_xxs is built with glu_norm=True" in caplog.text
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    other = timm.create_model("attnet_xxs", glu_norm="variance", pretrained=True, pretrained_cfg_overlay=overlay)
    assert isinstance(other.stages[0].blocks[0].mlp.norm, attnet.VarianceNorm2d)


def test_our_names_come_back_unchanged():
    model = timm.create_model("attnet_test")
    state = model.state_dict()
    assert all(value is state[name] for name, value in visionattn.convert_checkpoint(state, model).items())


def test_options_are_used():
    model = timm.create_model("attnet_test", drop_rate=0.1, proj_drop_rate=0.2, drop_path_rate=0.4, kernel_size=5)
    assert model.head.drop.p == 0.1
    block = model.stages[-1].blocks[-1]
    assert (block.mlp.drop1.p, block.mlp.drop2.p) == (0.2, 0.2)
    assert block.drop_path1.drop_prob == block.drop_path2.drop_prob == pytest.approx(0.4)
    assert block.attn.kernel_gen.in_features == 25
    assert model.eval()(torch.randn(1, 3, 40, 56)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(dims=(8, 8)), ValueError, "dims must have one entry per stage"),
        (dict(exp_rates=(4,)), ValueError, "exp_rates must have one entry per stage"),
        (dict(glu_norm="layer"), ValueError, "glu_norm must be a bool or one of 'rms', 'variance', got 'layer'"),
        (dict(kernel_size=4), ValueError, "kernel_size must be odd and at least 1, got 4"),
        (dict(kernel_size=3.0), TypeError, "kernel_size must be an int, got 3.0"),
    ],
)
def test_wrong_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        timm.create_model("attnet_test", **arguments)
