"""Folding for inference: the same outputs with fewer modules."""

import copy

import pytest
import timm
import torch
from timm.layers import LayerScale, LayerScale2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import visionattn
from tests.models.families import CONTRACT
from visionattn.utils.fuse import scale_inputs

# Besides our families: timm's networks that are ours in part, and a variant with layer scale.
MODELS = {
    **{case: build for case, (_, build) in CONTRACT.items()},
    "nat_test-scaled": ("nat_test", {"ls_init_value": 0.1}),
    "mambaout_test": ("mambaout_test", {}),
    "test_mambaout": ("test_mambaout", {}),
    "test_resnet": ("test_resnet", {}),
}
# Norms that stay: those of L2ViT come before a convolution that pads, with zeros that they do not shift; timm's
# ResNet has them as attributes of blocks, which do not say what follows what.
KEPT = ("l2vit", "test_resnet")


def scrambled(model):
    """`model` in float64, with norms and scales far from the identity."""
    generator = torch.Generator().manual_seed(0)
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("running_mean", "bias")):
            x.data = torch.randn(x.shape, generator=generator).double() * 0.3
        elif name.endswith("running_var") or ("gamma" in name and x.is_floating_point()):
            x.data = torch.rand(x.shape, generator=generator).double() + 0.5
    return model.double().eval()


@pytest.mark.parametrize("case", MODELS)
def test_fused_model_is_the_same(case):
    torch.manual_seed(0)
    name, arguments = MODELS[case]
    model = scrambled(timm.create_model(name, **arguments))
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, *model.pretrained_cfg["input_size"][1:], dtype=torch.float64)
    x = x[..., :75, :64] if not model.pretrained_cfg.get("fixed_input_size") else x
    with torch.no_grad():
        fused = visionattn.fuse(model)
        torch.testing.assert_close(fused(x), model(x), rtol=1e-9, atol=1e-9)
    assert not fused.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(isinstance(m, (LayerScale, LayerScale2d)) for m in fused.modules())
    norms = {name for name, m in fused.named_modules() if isinstance(m, _BatchNorm)}
    assert case.startswith(KEPT) or not norms
    assert not any("stem" in name for name in norms) or case == "test_resnet"


def test_training_models_are_fused_as_in_eval_mode():
    model = timm.create_model("van_test").train()
    fused, x = visionattn.fuse(model), torch.randn(1, 3, 64, 64)
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_norms_without_statistics_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert isinstance(visionattn.fuse(model)[1], nn.BatchNorm2d)


def test_norms_before_padded_convolutions_are_refused():
    with pytest.raises(ValueError, match="layer must be a linear layer or a 1x1 convolution"):
        scale_inputs(nn.Conv2d(4, 4, 3, padding=1), torch.ones(4), torch.zeros(4))
