"""Parameter counts and multiply-accumulates of every variant, as published."""

import pytest
import timm

import visionattn
from tests.models.families import FAMILIES
from visionattn.utils import count_macs

PUBLISHED = {name: (family, *values) for family in FAMILIES.values() for name, values in family.published.items()}
VARIANTS = [name for module in visionattn.models.__all__ for name in getattr(visionattn.models, module).VARIANTS]
IN22K = {
    "dinat_large_21k": "dinat_large",
    "dinat_large_21k_11x11": "dinat_large_384_11x11",
    "dinat_s_large_21k": "dinat_s_large",
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name):
    assert parameters(timm.create_model(name, device="meta")) == PUBLISHED[name][1]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in family.quick else pytest.mark.slow)
        for name, (family, *_) in PUBLISHED.items()
    ],
)
def test_macs(name):
    family, _, expected = PUBLISHED[name]
    model = timm.create_model(name, device="meta")
    macs = count_macs(model, model.pretrained_cfg["input_size"]) + family.saved_macs(model)
    assert macs / 1e9 == pytest.approx(expected, abs=family.macs_tolerance)


@pytest.mark.parametrize("name", IN22K)
def test_in22k_variants_differ_in_the_classifier_alone(name):
    model = timm.create_model(name, device="meta")
    assert model.num_classes == 21841
    model.reset_classifier(1000)
    assert parameters(model) == PUBLISHED[IN22K[name]][1]


def test_no_variant_is_left_out():
    tests = {name for name in VARIANTS if name.endswith("_test")}
    assert set(VARIANTS) <= {*PUBLISHED, *IN22K, *tests}
    assert tests <= {name for family in FAMILIES.values() for name, _ in family.contract.values()}
    assert all(parameters(timm.create_model(name, device="meta")) < 1_000_000 for name in tests)


@pytest.mark.parametrize("name", VARIANTS)
def test_configurations(name):
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.input_size == (3, 384, 384) if "_384" in name else (3, 224, 224)
    assert cfg.interpolation == "bicubic"
    assert cfg.license
    assert cfg.origin_url
    assert cfg.paper_ids.startswith("arXiv:")


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "nat" in name or name.startswith("vitrpb")])
def test_configurations_of_neighborhood_attention(name):
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.crop_pct == (1.0 if "_384" in name else 0.875)
    assert cfg.paper_ids == ("arXiv:2204.07143" if name.startswith("nat") else "arXiv:2209.15001")
