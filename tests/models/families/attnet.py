"""AttNet."""

import math

from tests.models.families import Family


def taps(model, x):
    features, stages = model.forward_intermediates(x)
    return {
        **{f"stage{i}": stage for i, stage in enumerate(stages)},
        "pooled_norm": model.forward_head(features, pre_logits=True),
        "logits": model.forward_head(features),
    }


def saved_macs(model):
    """The released model projects whole maps for its kernels and then pools; ours pools and projects 9 positions."""
    side = model.pretrained_cfg["input_size"][-1]
    return sum(
        len(stage.blocks) * info["num_chs"] ** 2 * (math.ceil(side / info["reduction"]) ** 2 - 9)
        for stage, info in zip(model.stages, model.feature_info)
    )


FAMILY = Family(
    fixtures="attnet",
    models={name: (name, {}) for name in ("attnet_xxs", "attnet_s", "attnet_t1", "attnet_t3")},
    taps=taps,
    published={
        "attnet_xxs": (2_853_556, 0.531),
        "attnet_xs": (5_554_902, 1.004),
        "attnet_s": (7_681_316, 1.327),
        "attnet_t1": (13_714_900, 2.422),
        "attnet_t2": (27_010_782, 5.090),
        "attnet_t3": (49_175_682, 9.382),
        "attnet_t4": (87_320_214, 16.726),
    },
    contract={
        "attnet_test": ("attnet_test", {}),
        "attnet_test-variance": ("attnet_test", {"glu_norm": "variance"}),
        "attnet_test-plain": ("attnet_test", {"glu_norm": False, "use_layer_scale": False}),
    },
    quick=frozenset({"attnet_xxs", "attnet_t1"}),
    slow_contract=frozenset({"attnet_test-variance", "attnet_test-plain"}),
    macs_tolerance=5.5e-4,  # the published figures were rounded twice
    saved_macs=saved_macs,
)
