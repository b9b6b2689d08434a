"""L2ViT."""

from tests.models.families import Family
from tests.parity import FIXTURES

NAMES = sorted(path.stem for path in (FIXTURES / "l2vit").glob("*.json"))


def taps(model, x):
    taps = {}
    hooks = {"down0": model.stem, **{f"down{i}": model.stages[i].downsample for i in (1, 2, 3)}}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: taps.__setitem__(name, out.permute(0, 3, 1, 2)))
        for name, module in hooks.items()
    ]
    features, maps = model.forward_intermediates(x)
    for handle in handles:
        handle.remove()
    taps.update({f"stage{i}": feature for i, feature in enumerate(maps)})
    taps["final_norm"] = features.flatten(1, 2)
    taps["pooled"] = model.forward_head(features, pre_logits=True)[..., None]
    taps["logits"] = model(x)
    return taps


FAMILY = Family(
    fixtures="l2vit",
    models={name: (name, {}) for name in NAMES if not name.endswith("_det")},
    taps=taps,
    # The paper's multiply-accumulates (4.714, 9.018, 15.858, 47.469) without those of its norms, which ours leaves out.
    published={
        "l2vit_tiny": (28_596_781, 4.688),
        "l2vit_small": (50_199_157, 8.980),
        "l2vit_base": (88_577_188, 15.808),
        "l2vit_base_384": (88_577_188, 47.322),
    },
    contract={"l2vit_test": ("l2vit_test", {}), "l2vit_test-window": ("l2vit_test", {"window_size": 4})},
    dense={name: (name.removesuffix("_det"), {}) for name in NAMES if name.endswith("_det")},
    quick=frozenset({"l2vit_tiny", "l2vit_tiny_det"}),
    slow_contract=frozenset({"l2vit_test-window"}),
)
