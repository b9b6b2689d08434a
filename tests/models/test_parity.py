"""Every family against what its paper's released code computed."""

import pytest
import timm
import torch

import visionattn
from tests.models.families import fixture_cases, recorded_cases
from tests.parity import assert_matches, image, load_fixture, official_state_dict
from visionattn.downstream import FeaturePyramid

# "tame" and "cases_constructed_angle" are recorded with other weights: smaller ones, and rotary angles as constructed.
SECTIONS = ("cases", "cases_constructed_angle", "tame")
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def _tolerance(family, dtype):
    return 1e-9 if dtype == torch.float64 else family.float32_tolerance


def _load(module, load, fixture, case, dtype):
    """`module` with the recorded weights, and the recorded images."""
    load(module)
    module.to(dtype).eval()
    images = image(**{key: case["input"][key] for key in ("shape", "seed")})
    if "input image" in (fixture.get("weights") or ""):  # recorded with images that were rounded as the weights are
        images = images.float()
    return images.to(dtype)


@each_dtype
@pytest.mark.parametrize(("family", "name", "section", "index"), list(fixture_cases("models", SECTIONS)))
def test_classification(family, name, section, index, dtype):
    fixture = load_fixture(family.fixtures, name)
    case = recorded_cases(fixture, section)[index]
    variant, arguments = family.models[name]
    model = timm.create_model(variant, **arguments)
    official = official_state_dict(fixture, section)
    x = _load(
        model,
        lambda m: m.load_state_dict(visionattn.convert_checkpoint(official, m), strict=True),
        fixture,
        case,
        dtype,
    )
    with torch.no_grad():
        taps = family.taps(model, x)
    for tap, digest in case["outputs"].items():
        assert_matches(tap, taps[tap], digest, _tolerance(family, dtype))


@each_dtype
@pytest.mark.parametrize(("family", "name", "section", "index"), list(fixture_cases("dense", ("cases",))))
def test_dense_backbone(family, name, section, index, dtype):
    fixture = load_fixture(family.fixtures, name)
    case = recorded_cases(fixture, section)[index]
    variant, arguments = family.dense[name]
    pyramid = FeaturePyramid(variant, **arguments)
    x = _load(pyramid, lambda m: m.load_released(official_state_dict(fixture, section)), fixture, case, dtype)
    with torch.no_grad():
        maps = pyramid(x)
    for i, feature in enumerate(maps):
        assert_matches(f"map {i}", feature, case["outputs"][family.dense_tap.format(i)], _tolerance(family, dtype))
