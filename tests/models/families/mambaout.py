"""MambaOut: timm's network, our checkpoints; what a backbone owes timm is timm's to test."""

from tests.models.families import Family


def taps(model, x):
    features, stages = model.forward_intermediates(x)
    return {
        **{f"stage{i}": stage for i, stage in enumerate(stages)},
        "pooled_norm": model.head.norm(features.mean((1, 2))),
        "logits": model.forward_head(features),
    }


FAMILY = Family(
    fixtures="mambaout",
    models={name: (name, {}) for name in ("mambaout_femto", "mambaout_tiny", "mambaout_small")},
    taps=taps,
    published={
        "mambaout_femto": (7_304_536, 1.148),
        "mambaout_kobe": (9_141_208, 1.506),
        "mambaout_tiny": (26_545_096, 4.470),
        "mambaout_small": (48_488_072, 8.936),
        "mambaout_base": (84_813_092, 15.794),
    },
    contract={},
    quick=frozenset({"mambaout_femto"}),
)
