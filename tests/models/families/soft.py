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


# Parameters and billions of multiply-accumulates as the released code spends them. Its normalized models spend more:
# the products that its search for a start takes, 6 to 8 per block, depend on the image.
PUBLISHED = {
    "tiny": (13_069_056, 2.220943),
    "small": (38_858_462, 7.716822),
    "small_d7": (24_110_092, 3.910645),
    "medium": (45_812_707, 9.071972),
    "large": (64_700_646, 13.732325),
    "huge": (87_108_273, 19.404186),
}


def saved_macs(model):
    """The released code takes sums of squares by products with ones, and multiplies kernel and inverse first."""
    saved = 0
    for stage, tokens in zip(model.stages[:3], (56**2, 28**2, 14**2)):
        attention, landmarks = stage.blocks[0].attn, 7**2
        each = tokens * landmarks**2 + 2 * tokens * landmarks * 32 + landmarks**2 * 32
        if attention.inverse == "global":
            each -= landmarks**3  # the square of the matrix that our search for a start takes
        saved += len(stage.blocks) * attention.num_heads * each
    return saved


FAMILY = Family(
    fixtures="soft",
    models={name: (name, {}) for name in MODELS},
    taps=taps,
    published={f"{kind}_{size}": values for kind in ("soft", "soft_norm") for size, values in PUBLISHED.items()},
    contract={"soft_test": ("soft_test", {}), "soft_norm_test": ("soft_norm_test", {})},
    quick=frozenset({"soft_tiny", "soft_norm_tiny"}),
    no_weight_decay=("cls_token",),
    saved_macs=saved_macs,
)
