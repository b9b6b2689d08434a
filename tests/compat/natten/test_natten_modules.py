"""NeighborhoodAttention1D/2D/3D of every generation."""

import copy
import pickle

import pytest
import torch

from visionattn.compat import natten
from visionattn.compat.natten import v0_14, v0_17, v0_21

RECORDED = {
    "module1d_pad": ("NeighborhoodAttention1D", {"dim": 8, "num_heads": 2, "kernel_size": 5, "dilation": 2}),
    "module2d_pad": ("NeighborhoodAttention2D", {"dim": 12, "num_heads": 3, "kernel_size": 7, "dilation": 1}),
    "module2d_nopad": ("NeighborhoodAttention2D", {"dim": 12, "num_heads": 3, "kernel_size": 3, "dilation": 2}),
}


@pytest.mark.parametrize("namespace", [natten, v0_14], ids=lambda m: m.__name__)
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_values_and_gradients(recorded, assert_same, namespace, name):
    case = recorded(f"op_{name}")
    kind, settings = RECORDED[name]
    module = getattr(namespace, kind)(**settings, bias=True).double()
    module.load_state_dict({key[6:]: x for key, x in case.items() if key.startswith("param.")})
    x = case["x"].requires_grad_()
    out = module(x)
    out.backward(case["grad_out"])
    assert_same(out.detach(), case["out"])
    assert_same(x.grad, case["d_x"])
    for key, parameter in module.named_parameters():
        assert_same(parameter.grad, case[f"d.{key}"])


# Positional arguments, keywords, and the generation that they tell.
TOLD = [
    ((8, 2, 3), {}, "0.21"),
    ((8, 2, 3, 2), {}, "0.21"),
    ((8,), {"num_heads": 2, "kernel_size": 3, "dilation": 2, "qkv_bias": False, "qk_scale": 2.0}, "0.21"),
    ((), {"embed_dim": 8, "num_heads": 2, "kernel_size": 3}, "0.21"),
    ((8, 2, 3), {"stride": 2, "is_causal": True}, "0.21"),
    ((8, 2, 3), {"is_causal": True}, "0.21"),
    ((8, 2, 3), {"rel_pos_bias": True}, "0.17"),
    ((), {"dim": 8, "num_heads": 2, "kernel_size": 3, "is_causal": True, "attn_drop": 0.0}, "0.17"),
    ((), {"dim": 8, "num_heads": 2, "kernel_size": 3, "dilation": None}, "0.14"),
    ((8,), {"num_heads": 2, "kernel_size": 3, "attn_drop": 0.0}, "0.14"),  # the call in the papers' code
    ((8, 2, 3), {"bias": False}, "0.14"),
]


def _traits(module):
    return {
        "state": list(module.state_dict()),
        "padding": module.padding,
        **{name: getattr(module, name) for name in ("kernel_size", "stride", "dilation", "is_causal", "scale")},
    }


@pytest.mark.parametrize(("args", "kwargs", "generation"), TOLD)
def test_generation_is_told_by_the_arguments(args, kwargs, generation):
    namespace = {"0.14": v0_14, "0.17": v0_17, "0.21": v0_21}[generation]
    module = natten.NeighborhoodAttention2D(*args, **kwargs)
    assert _traits(module) == _traits(namespace.NeighborhoodAttention2D(*args, **kwargs))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("namespace", "args", "has_bias"),
    [
        (v0_14, (8, 2, 3), True),
        (v0_14, (8, 2, 3, 2, False), False),
        (v0_17, (8, 2, 3), False),
        (v0_17, (8, 2, 3, 2, False, True), True),
        (v0_21, (8, 2, 3, 2, 2, True), False),
    ],
)
def test_state_and_shapes(rank, namespace, args, has_bias):
    module = getattr(namespace, f"NeighborhoodAttention{rank}D")(*args)
    names = ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    assert list(module.state_dict()) == (["rpb"] if has_bias else []) + names
    x = torch.randn(2, *(7, 6, 8)[:rank], 8)
    assert module(x).shape == x.shape
    again = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert torch.equal(again(x), module(x))


def test_small_maps_are_padded_by_the_oldest_generation_only():
    x = torch.randn(1, 5, 9, 8)
    assert v0_14.NeighborhoodAttention2D(8, 2, 7)(x).shape == x.shape
    for module in (v0_17.NeighborhoodAttention2D(8, 2, 7), v0_21.NeighborhoodAttention2D(8, 2, 7)):
        with pytest.raises(ValueError, match="must not exceed the map"):
            module(x)


def test_forward_takes_tuning_arguments():
    module = natten.NeighborhoodAttention2D(embed_dim=8, num_heads=2, kernel_size=3)
    x = torch.randn(1, 5, 9, 8)
    assert torch.equal(module(x, backend="cutlass-fna", q_tile_shape=(8, 8), kv_tile_shape=(8, 8)), module(x))
    with pytest.raises(ValueError, match="backend"):
        module(x, backend="none")


WRONG = [
    (natten, {"embed_dim": 8, "num_heads": 2, "kernel_size": 3, "attn_drop": 0.1}, TypeError, "attn_drop"),
    (natten, {"dim": 8, "num_heads": 2, "kernel_size": 3, "stride": 2}, TypeError, "dim"),
    (v0_14, {"dim": 8, "num_heads": 2, "kernel_size": 3, "is_causal": True}, TypeError, "is_causal"),
    (v0_17, {"dim": 8, "num_heads": 2, "kernel_size": 3, "bias": True}, TypeError, "bias"),
    (v0_21, {"embed_dim": 8, "num_heads": 2}, TypeError, "kernel_size"),
    (v0_21, {"embed_dim": 8, "num_heads": 3, "kernel_size": 3}, ValueError, "num_heads"),
    (v0_21, {"embed_dim": 8, "num_heads": 2, "kernel_size": 1}, ValueError, "kernel_size"),
    (v0_17, {"dim": 8, "num_heads": 2, "kernel_size": (3, 3, 3)}, ValueError, "kernel_size"),
    (v0_17, {"dim": 8, "num_heads": 2, "kernel_size": 3, "rel_pos_bias": True, "is_causal": True}, NotImplementedError,
     "causal"),
]  # fmt: skip


@pytest.mark.parametrize(("namespace", "kwargs", "error", "message"), WRONG)
def test_wrong_arguments_are_named(namespace, kwargs, error, message):
    with pytest.raises(error, match=message):
        namespace.NeighborhoodAttention2D(**kwargs)
