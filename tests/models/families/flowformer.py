"""Flowformer."""

from tests.models.families import Family


def taps(model, x):
    taps = {}
    block = model.stages[0].blocks[0]
    handles = [
        block.register_forward_hook(lambda m, i, out: taps.__setitem__("tap:blocks.0.0", out.flatten(1, 2))),
        block.attn.register_forward_hook(lambda m, i, out: taps.__setitem__("tap:blocks.0.0.attn", out)),
    ]
    normed, maps = model.forward_intermediates(x)
    for handle in handles:
        handle.remove()
    taps.update({f"stage{i}": feature for i, feature in enumerate(maps)})
    taps["stage3_norm"] = normed.permute(0, 3, 1, 2)
    taps["logits"] = model(x)
    return taps


FAMILY = Family(
    fixtures="linear_attention",
    models={"flowformer": ("flowformer", {})},
    taps=taps,
    published={"flowformer": (43_311_304, 6.869661696)},
    contract={"flowformer_test": ("flowformer_test", {})},
    quick=frozenset({"flowformer"}),
    no_weight_decay=("pos_embed",),
)
