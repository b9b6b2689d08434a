"""Parameter counts and multiply-accumulates of every variant, as published."""

import pytest
import timm

from visionattn.models import nat, nat_isotropic
from visionattn.utils import count_macs

PUBLISHED = {  # parameters, billions of multiply-accumulates at the default input size
    "nat_mini": (19_984_174, 2.695),
    "nat_tiny": (27_901_582, 4.295),
    "nat_small": (50_743_297, 7.772),
    "nat_base": (89_769_652, 13.677),
    "dinat_mini": (19_984_174, 2.695),
    "dinat_tiny": (27_901_582, 4.295),
    "dinat_small": (50_719_681, 7.772),
    "dinat_base": (89_769_652, 13.677),
    "dinat_large": (200_943_514, 30.458),
    "dinat_large_384": (200_943_514, 89.505),
    "dinat_large_384_11x11": (201_144_250, 92.085),
    "dinat_s_tiny": (28_288_354, 4.491),
    "dinat_s_small": (49_606_258, 8.741),
    "dinat_s_base": (87_768_224, 15.431),
    "dinat_s_large": (196_532_476, 34.476),
    "dinat_s_large_384": (196_532_476, 101.314),
    "nat_isotropic_small": (21_999_736, 4.308),
    "dinat_isotropic_small": (21_999_736, 4.308),
    "vitrpb_small": (22_080_376, 4.574),
    "nat_isotropic_base": (86_465_800, 16.941),
    "dinat_isotropic_base": (86_465_800, 16.941),
    "vitrpb_base": (86_627_080, 17.472),
}
IN22K = {
    "dinat_large_21k": "dinat_large",
    "dinat_large_21k_11x11": "dinat_large_384_11x11",
    "dinat_s_large_21k": "dinat_s_large",
}
QUICK = ("nat_mini", "dinat_mini", "dinat_s_tiny", "nat_isotropic_small", "vitrpb_small")


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name):
    assert parameters(timm.create_model(name, device="meta")) == PUBLISHED[name][0]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PUBLISHED]
)
def test_macs(name):
    model = timm.create_model(name, device="meta")
    assert count_macs(model, model.pretrained_cfg["input_size"]) / 1e9 == pytest.approx(PUBLISHED[name][1], abs=5.1e-4)


@pytest.mark.parametrize("name", IN22K)
def test_in22k_variants_differ_in_the_classifier_alone(name):
    model = timm.create_model(name, device="meta")
    assert model.num_classes == 21841
    model.reset_classifier(1000)
    assert parameters(model) == PUBLISHED[IN22K[name]][0]


def test_no_variant_is_left_out():
    variants = {**nat.VARIANTS, **nat_isotropic.VARIANTS}
    tests = {name for name in variants if name.endswith("_test")}
    assert set(variants) == {*PUBLISHED, *IN22K, *tests}
    assert all(parameters(timm.create_model(name, device="meta")) < 1_000_000 for name in tests)


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations(name):
    cfg = timm.get_pretrained_cfg(name)
    size = 384 if "_384" in name else 224
    assert cfg.input_size == (3, size, size)
    assert cfg.crop_pct == (1.0 if size == 384 else 0.875)
    assert cfg.interpolation == "bicubic"
    assert cfg.license
    assert cfg.origin_url
    assert cfg.paper_ids == ("arXiv:2204.07143" if name.startswith("nat") else "arXiv:2209.15001")
