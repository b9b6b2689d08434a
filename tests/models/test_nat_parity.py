"""NAT, DiNAT, DiNAT_s and isotropic models against what the released code computed."""

import pytest
import timm
import torch
import torch.nn.functional as F

import visionattn
from tests.parity import FIXTURES, assert_matches, image, load_fixture, official_state_dict

DENSE = {
    "det_nat_tiny": ("nat_tiny", {}),
    "det_dinat_mini": ("dinat_mini", {"dilations": "coco"}),
    "det_dinat_s_tiny": ("dinat_s_tiny", {"dilations": "coco"}),
}
CLASSIFICATION = sorted(path.stem for path in (FIXTURES / "dinat").glob("*.json") if path.stem not in DENSE)
QUICK = {
    ("nat_mini", 2),
    ("dinat_s_tiny", 1),
    ("nat_isotropic_small", 1),
    ("dinat_isotropic_small", 0),
    ("vitrpb_small", 1),
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def _cases():
    for name in CLASSIFICATION:
        for index in range(len(load_fixture("dinat", name)["cases"])):
            marks = () if (name, index) in QUICK else pytest.mark.slow
            yield pytest.param(name, index, marks=marks, id=f"{name}-{index}")


def _taps(model, x):
    """Everything that a fixture can hold, by its name there."""
    taps = {}
    hooks = {"stem": getattr(model, "stem", None) or model.patch_embed}
    for i, stage in enumerate(getattr(model, "stages", [])[1:]):
        hooks[f"down{i}"] = stage.downsample
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: taps.__setitem__(name, out))
        for name, module in hooks.items()
    ]
    features, intermediates = model.forward_intermediates(x, output_fmt="NHWC")
    for handle in handles:
        handle.remove()
    level = "stage" if hasattr(model, "stages") else "block"
    taps.update({f"{level}{i}": feature for i, feature in enumerate(intermediates)})
    taps["norm"] = features if hasattr(model, "stages") else features.flatten(1, 2)
    taps["pooled"] = model.forward_head(features, pre_logits=True)
    taps["logits"] = model(x)
    return taps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "index"), list(_cases()))
def test_classification(name, index, dtype):
    fixture = load_fixture("dinat", name)
    case = fixture["cases"][index]
    model = timm.create_model(name).eval()
    weights = visionattn.convert_checkpoint(official_state_dict(fixture), model)
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        taps = _taps(model.to(dtype), image(**case["input"]).to(dtype))
    for tap, digest in case["outputs"].items():
        assert_matches(tap, taps[tap], digest, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "det_dinat_mini" else pytest.mark.slow) for name in DENSE]
)
def test_dense_backbone(name, dtype):
    fixture = load_fixture("dinat", name)
    official = official_state_dict(fixture)
    variant, options = DENSE[name]
    model = timm.create_model(variant, **options).eval()
    weights = visionattn.convert_checkpoint(official, model)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) == {"norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias"}
    assert not unexpected
    for case in fixture["cases"]:
        x = image(**case["input"]).to(dtype)
        with torch.no_grad():
            maps = model.to(dtype).forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
        for i, feature in enumerate(maps):
            scale, shift = (official[f"norm{i}.{kind}"].to(dtype) for kind in ("weight", "bias"))
            normed = F.layer_norm(feature, feature.shape[-1:], scale, shift).permute(0, 3, 1, 2)
            assert_matches(f"feat{i}", normed, case["outputs"][f"feat{i}"], TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["det_dinat_mini", "det_dinat_s_tiny"])
def test_coco_preset_is_the_released_one(name):
    published = load_fixture("dinat", name)["official"]["kwargs"]["dilations"]
    variant, options = DENSE[name]
    model = timm.create_model(variant, device="meta", **options)
    ours = [[block.attn.dilation for block in stage.blocks] for stage in model.stages]
    assert ours == [[[gap, gap] for gap in stage] for stage in published]
