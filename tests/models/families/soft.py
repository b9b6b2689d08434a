"""SOFT and SOFT++."""

from tests.models.families import Family
from tests.parity import FIXTURES

MODELS = sorted(path.stem for path in (FIXTURES / "soft").glob("*.json"))
HOOKS = {
    "tap:patch_embed1.proj": "stem.proj",
    **{f"tap:block{i + 1}.0": f"stages.{i}.blocks.0" for i in range(4)},
    **{f"tap:block{i + 1}.0.att.mha": f"stages.{i}.blocks.0.attn" for i in range(3)},
}


def taps(model, x):
    taps = {}

    def keep(name):
        def hook(module, inputs, output):
            token_major = name.startswith("tap:block") and output.dim() == 4
            taps[name] = output.flatten(1, 2) if token_major else output

        return hook

    handles = [model.get_submodule(module).register_forward_hook(keep(name)) for name, module in HOOKS.items()]

    def keep_attention(module, inputs):
        (out,) = inputs  # of the projection: heads side by side, tokens in rows
        taps["tap:block1.0.att.mha.attn"] = out.flatten(1, 2).unflatten(2, (-1, 32)).transpose(1, 2)

    handles.append(model.stages[0].blocks[0].attn.proj.register_forward_pre_hook(keep_attention))
    tokens, maps = model.forward_intermediates(x)
    for handle in handles:
        handle.remove()
    taps.update({f"stage{i}": feature for i, feature in enumerate(maps)})
    taps["stage3_norm"] = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
    taps["pre_logits"] = model.forward_head(tokens, pre_logits=True)
    taps["logits"] = model(x)
    return taps


# Parameters and multiply-accumulates. The released code spends more of these than ours for the same result, see
# tests/models/test_soft.py: (kernel @ inverse) @ ..., and distances by products with matrices of ones.
PUBLISHED = {
    "tiny": (13_069_056, 0),
    "small": (38_858_462, 0),
    "small_d7": (24_110_092, 0),
    "medium": (45_812_707, 0),
    "large": (64_700_646, 0),
    "huge": (87_108_273, 0),
}

FAMILY = Family(
    fixtures="soft",
    models={name: (name, {}) for name in MODELS},
    taps=taps,
    published={f"{kind}_{size}": values for kind in ("soft", "soft_norm") for size, values in PUBLISHED.items()},
    contract={"soft_test": ("soft_test", {}), "soft_norm_test": ("soft_norm_test", {})},
    quick=frozenset({"soft_tiny", "soft_norm_tiny"}),
    no_weight_decay=("cls_token",),
)
