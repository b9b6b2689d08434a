"""What RAVLT and MAViT have in common: one trunk."""

from tests.models.families import Family
from tests.parity import FIXTURES


def taps(model, x):
    taps = {}
    hooks = {"stem": model.stem, **{f"down{i}": stage.downsample for i, stage in enumerate(model.stages[1:])}}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: taps.__setitem__(name, out))
        for name, module in hooks.items()
    ]
    taps["final"], maps = model.forward_intermediates(x)
    for handle in handles:
        handle.remove()
    taps.update({f"stage{i}": feature for i, feature in enumerate(maps)})
    taps["pooled"] = model.forward_head(taps["final"], pre_logits=True)[..., None, None]
    taps["logits"] = model(x)
    return taps


def family(fixtures, prefix, published, **fields):
    names = sorted(path.stem for path in (FIXTURES / fixtures).glob("*.json"))
    return Family(
        fixtures=fixtures,
        models={name: (name, {}) for name in names if not name.endswith("_det")},
        taps=taps,
        published={f"{prefix}_{size}": values for size, values in published.items()},
        contract={
            f"{prefix}_test": (f"{prefix}_test", {}),
            f"{prefix}_test-linear": (f"{prefix}_test", {"attn_types": ("linear",) * 4}),
        },
        dense={name: (name.removesuffix("_det"), {}) for name in names if name.endswith("_det")},
        quick=frozenset({f"{prefix}_t", f"{prefix}_t_det"}),
        slow_contract=frozenset({f"{prefix}_test-linear"}),
        **fields,
    )
