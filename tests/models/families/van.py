"""VAN."""

from tests.models.families import Family


def taps(model, x):
    features, stages = model.forward_intermediates(x)
    return {**{f"stage{i}": stage for i, stage in enumerate(stages)}, "logits": model.forward_head(features)}


FAMILY = Family(
    fixtures="van",
    models={name: (name, {}) for name in ("van_b0", "van_b2", "van_b3", "van_b4")},
    taps=taps,
    published={
        "van_b0": (4_105_800, 0.864),
        "van_b1": (13_861_800, 2.495),
        "van_b2": (26_578_472, 4.993),
        "van_b3": (44_765_608, 8.925),
        "van_b4": (60_283_176, 12.144),
        "van_b5": (89_967_688, 17.129),
        "van_b6": (199_829_416, 38.710),
    },
    contract={"van_test": ("van_test", {})},
    dense={f"van_b{i}_dense": (f"van_b{i}", {"norm_eps": 1e-5}) for i in (0, 1, 2)},
    dense_tap="stage{}",
    quick=frozenset({"van_b0", "van_b0_dense"}),
)
