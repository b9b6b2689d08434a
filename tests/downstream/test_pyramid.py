"""Backbones as feature pyramids: shapes, output norms, frozen parts, checkpoints."""

import pytest
import timm
import torch
from timm.layers import LayerNorm2d
from torch import nn

from tests.models.families import CONTRACT
from visionattn.downstream import FeaturePyramid


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*CONTRACT, "resnet18", "test_mambaout"])
def test_maps(name):
    variant, arguments = CONTRACT[name][1] if name in CONTRACT else (name, {})
    count = len(timm.create_model(variant, device="meta", **arguments).feature_info)
    pyramid = FeaturePyramid(variant, out_indices=range(1, min(count, 4)), **arguments).eval()
    maps = pyramid(images(2, 3, 64, 96))
    assert len(maps) == min(count, 4) - 1
    for feature, channels, stride in zip(maps, pyramid.channels, pyramid.strides):
        assert feature.shape == (2, channels, 64 // stride, 96 // stride)
        assert feature.is_contiguous()


def test_norms_are_the_papers_unless_asked():
    assert all(isinstance(norm, LayerNorm2d) and norm.eps == 1e-5 for norm in FeaturePyramid("nat_test").norms)
    assert all(isinstance(norm, nn.Identity) for norm in FeaturePyramid("resnet18").norms)
    assert all(isinstance(norm, nn.Identity) for norm in FeaturePyramid("nat_test", output_norms=False).norms)
    assert all(isinstance(norm, LayerNorm2d) for norm in FeaturePyramid("resnet18", output_norms=True).norms)


@pytest.mark.parametrize("frozen", range(-1, 5))
def test_frozen_stages(frozen):
    pyramid = FeaturePyramid("van_test", frozen_stages=frozen).train()
    network = pyramid.body.model
    parts = [network.stem, *network.stages]
    for i, part in enumerate(parts):
        trained = {p.requires_grad for p in part.parameters()}
        assert trained <= {i > frozen}
        norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
        assert all(norm.training == (i > frozen) for norm in norms)
    assert all(p.requires_grad for p in pyramid.norms.parameters())


def test_batch_norms_keep_their_statistics():
    pyramid = FeaturePyramid("van_test", norm_eval=True).train()
    kinds = {type(module): module.training for module in pyramid.modules() if not list(module.children())}
    assert not kinds[nn.BatchNorm2d]
    assert kinds[nn.Conv2d]


def test_checkpoints():
    source = timm.create_model("dinat_test")
    pyramid = FeaturePyramid("dinat_test", out_indices=(0, 2))
    missing = pyramid.load_released({"state_dict": source.state_dict()})
    assert missing == ["norms.0.weight", "norms.0.bias", "norms.1.weight", "norms.1.bias"]
    dense = {f"backbone.{name}": value for name, value in source.state_dict().items() if "head" not in name}
    dense.update(
        {f"backbone.norm{i}.{kind}": torch.full((16 * 2**i,), i + 0.5) for i in range(4) for kind in ("weight", "bias")}
    )
    assert pyramid.load_released({"state_dict": dense}) == []
    assert torch.equal(pyramid.norms[1].weight, torch.full((64,), 2.5))
    other = FeaturePyramid("dinat_test", out_indices=(0, 2))
    assert other.load_released(pyramid.state_dict()) == []
    x = images(1, 3, 64, 64)
    for one, two in zip(pyramid.eval()(x), other.eval()(x)):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="does not fit"):
        pyramid.load_released(timm.create_model("van_test").state_dict())


def test_recomputed_activations_change_nothing():
    x, gradients = images(1, 3, 64, 64), []
    for enable in (False, True):
        torch.manual_seed(0)
        pyramid = FeaturePyramid("nat_test", grad_checkpointing=enable).train()
        sum(feature.square().mean() for feature in pyramid(x)).backward()
        gradients.append(pyramid.body.model.stages[0].blocks[0].mlp.fc1.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"out_indices": (0, 4)}, r"out_indices must be stages of nat_test, 0 to 3, got \[0, 4\]"),
        ({"out_indices": ()}, "out_indices must be stages"),
        ({"frozen_stages": 5}, "frozen_stages must be from -1 to 4 for nat_test, got 5"),
    ],
)
def test_wrong_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        FeaturePyramid("nat_test", **options)
