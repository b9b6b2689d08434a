"""What we add to timm's MambaOut, and that timm's parts are the released ones."""

from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.layers import LayerNorm
from timm.models import mambaout as upstream
from torch import nn

import visionattn
from tests.models.recorded_blocks import assert_block_matches
from tests.parity import FIXTURES, assert_matches, image, load_fixture, official_state_dict
from visionattn.downstream import FeaturePyramid

BLOCKS = np.load(FIXTURES / "mambaout" / "op_gated_cnn_block.npz")
PARTS = np.load(FIXTURES / "mambaout" / "op_stem_down_head.npz")
PARTS_RENAMED = {"fc1": "pre_logits.fc", "norm": "pre_logits.norm", "fc2": "fc"}


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_gated_block(case):
    options = dict(expansion_ratio=3.0, conv_ratio=1.5, act_layer=nn.SiLU) if case == "b" else {}
    assert_block_matches(BLOCKS, case, upstream.GatedConvBlock(BLOCKS[f"{case}/x"].shape[3], **options))


@pytest.mark.parametrize(
    ("case", "make"), [("stem", partial(upstream.Stem, 3, 16)), ("down", partial(upstream.Downsample, 16, 24))]
)
def test_stem_and_downsampling(case, make):
    assert_block_matches(PARTS, case, make(norm_layer=partial(LayerNorm, eps=1e-6)))


def test_head():
    head = upstream.MlpHead(16, 10, pool_type="", norm_layer=partial(LayerNorm, eps=1e-6))
    head.norm = nn.Identity()

    def rename(state):
        split = (name.partition(".") for name in state)
        return {f"{PARTS_RENAMED[part]}.{kind}": state[f"{part}.{kind}"] for part, _, kind in split}

    assert_block_matches(PARTS, "head", head, rename)


def test_dense_backbone_of_a_released_file():
    """The maps of the recording, then a norm each."""
    fixture = load_fixture("mambaout", "mambaout_femto")
    case = fixture["cases"][-1]
    pyramid = FeaturePyramid("mambaout_femto")
    missing = pyramid.load_released(official_state_dict(fixture))
    assert sorted(missing) == sorted(f"norms.{i}.{kind}" for i in range(4) for kind in ("weight", "bias"))
    assert [norm.eps for norm in pyramid.norms] == [1e-6] * 4
    pyramid.double().eval()
    x = image(**case["input"]).float().double()
    with torch.no_grad():
        maps = pyramid(x)
        plain = FeaturePyramid("mambaout_femto", output_norms=False).double().eval()
        plain.load_released(official_state_dict(fixture))
        for i, (normed, feature) in enumerate(zip(maps, plain(x))):
            assert feature.is_contiguous()
            assert_matches(f"stage{i}", feature, case["outputs"][f"stage{i}"], 1e-9)
            torch.testing.assert_close(normed, pyramid.norms[i](feature))


def test_frozen_stages():
    pyramid = FeaturePyramid("mambaout_test", frozen_stages=1).train()
    trained = {name.split(".")[2] for name, p in pyramid.body.named_parameters() if p.requires_grad}
    assert trained == {"1", "2", "3"}
    pyramid(torch.randn(1, 3, 64, 64))[-1].sum().backward()


@pytest.mark.parametrize("wrapper", ["state_dict", "state_dict_ema", "model", None])
def test_wrapped_files(wrapper):
    official = official_state_dict(load_fixture("mambaout", "mambaout_femto"))
    model = timm.create_model("mambaout_femto", device="meta")
    converted = visionattn.convert_checkpoint({wrapper: official} if wrapper else official, model)
    assert [*converted] == [*model.state_dict()]
    again = visionattn.convert_checkpoint(converted, model)
    assert all(again[name] is converted[name] for name in converted)


@pytest.mark.parametrize(("alias", "variant"), [("mambaout_t", "mambaout_tiny"), ("mambaout_b", "mambaout_base")])
def test_aliases_are_of_models_that_stay_timms(alias, variant):
    assert timm.model_entrypoint(variant).__module__ == "timm.models.mambaout"
    model = timm.create_model(alias, device="meta")
    assert model.pretrained_cfg["architecture"] == variant
    assert str(model) == str(timm.create_model(variant, device="meta"))


def test_test_variant():
    model = timm.create_model("mambaout_test")
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model(torch.randn(2, 3, 50, 70)).shape == (2, 1000)
