"""DualToken-ViT; its fixtures record our own definition."""

from tests.models.families import Family
from tests.parity import FIXTURES


def taps(model, x):
    taps = {}

    def keep_tokens(index):
        return lambda module, inputs, output: taps.__setitem__(f"tokens{index}", output[1])

    handles = [stage.register_forward_hook(keep_tokens(i)) for i, stage in enumerate(model.stages)]
    handles.append(model.stem.register_forward_hook(lambda module, inputs, output: taps.__setitem__("stem", output)))
    _, maps = model.forward_intermediates(x)
    for handle in handles:
        handle.remove()
    taps.update({f"stage{i}": feature for i, feature in enumerate(maps)})
    taps["logits"] = model(x)
    return taps


MODELS = sorted(path.stem for path in (FIXTURES / "dualtoken").glob("*.json"))

FAMILY = Family(
    fixtures="dualtoken",
    models={name: (name, {"num_classes": 10} if name.endswith("_test") else {}) for name in MODELS},
    taps=taps,
    published={
        "dualtoken_vit_mini": (5_912_409, 0.506568),
        "dualtoken_vit_small": (11_259_698, 1.0254),
        "dualtoken_vit_small_normal": (11_727_542, 1.0441),
    },
    contract={"dualtoken_vit_test": ("dualtoken_vit_test", {})},
    quick=frozenset({"dualtoken_vit_test", "dualtoken_vit_mini"}),
    no_weight_decay=("global_tokens",),
)
