"""NAT, DiNAT, DiNAT_s, their isotropic variants and ViT-RPB."""

from tests.models.families import Family
from tests.parity import FIXTURES

DENSE = {
    "det_nat_tiny": ("nat_tiny", {}),
    "det_dinat_mini": ("dinat_mini", {"dilations": "coco"}),
    "det_dinat_s_tiny": ("dinat_s_tiny", {"dilations": "coco"}),
}
CLASSIFICATION = sorted(path.stem for path in (FIXTURES / "dinat").glob("*.json") if path.stem not in DENSE)


def taps(model, x):
    taps = {}
    hooks = {"stem": model.stem}
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


FAMILY = Family(
    fixtures="dinat",
    models={name: (name, {}) for name in CLASSIFICATION},
    taps=taps,
    published={
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
    },
    contract={
        "nat_test": ("nat_test", {}),
        "dinat_test": ("dinat_test", {}),
        "dinat_test-max": ("dinat_test", {"dilations": "max"}),
        "dinat_test-masked": ("dinat_test", {"padding": "masked", "dilations": "224"}),
        "dinat_s_test": ("dinat_s_test", {}),
        "nat_isotropic_test": ("nat_isotropic_test", {}),
        "vitrpb_test": ("vitrpb_test", {}),
    },
    dense=DENSE,
    dense_tap="feat{}",
    quick=frozenset(
        {"nat_mini", "dinat_s_tiny", "nat_isotropic_small", "dinat_isotropic_small", "vitrpb_small", "det_dinat_mini"}
    ),
    slow_contract=frozenset({"nat_test", "dinat_test-max", "dinat_test-masked", "nat_isotropic_test"}),
    float32_tolerance=1e-4,
    no_weight_decay=(".rpb",),
)
