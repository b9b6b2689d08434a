"""Switches, tile lists, token permutation."""

import pytest
import torch

from visionattn.compat import natten
from visionattn.compat.natten import context, token_permute


@pytest.fixture(autouse=True)
def clean_state(monkeypatch):
    monkeypatch.setattr(context, "_STATE", dict(context._STATE))


SWITCHES = [
    (natten.use_kv_parallelism_in_fused_na, natten.is_kv_parallelism_in_fused_na_enabled),
    (natten.use_deterministic_algorithms, natten.are_deterministic_algorithms_enabled),
    (natten.allow_flex_compile, natten.is_flex_compile_allowed),
    (natten.allow_flex_compile_backprop, natten.is_flex_compile_backprop_allowed),
    (natten.use_fused_na, natten.is_fused_na_enabled),
    (natten.use_tiled_na, natten.is_tiled_na_enabled),
    (natten.use_gemm_na, natten.is_gemm_na_enabled),
    (natten.use_tf32_in_gemm_na, natten.is_tf32_in_gemm_na_enabled),
    (natten.use_autotuner, natten.is_autotuner_enabled_for_forward),
]


@pytest.mark.parametrize(("setter", "getter"), SWITCHES, ids=lambda f: f.__name__)
def test_switches(setter, getter):
    for mode in (True, False, True):
        setter(mode)
        assert getter() is mode
    setter(False)
    setter()
    assert getter() is True
    with pytest.raises(TypeError, match="mode must be a bool"):
        setter(1)


def test_switches_that_set_two():
    natten.allow_flex_compile(True, backprop=True)
    assert natten.is_flex_compile_backprop_allowed()
    natten.disable_flex_compile_backprop()
    assert natten.is_flex_compile_allowed()
    assert not natten.is_flex_compile_backprop_allowed()
    natten.disable_flex_compile()
    assert not natten.is_flex_compile_allowed()
    natten.use_fused_na(True, kv_parallel=False)
    assert not natten.is_kv_parallelism_in_fused_na_enabled()
    natten.use_autotuner(False, True)
    assert (natten.is_autotuner_enabled_for_forward(), natten.is_autotuner_enabled_for_backward()) == (False, True)
    natten.disable_autotuner()
    assert not natten.is_autotuner_enabled_for_backward()


@pytest.mark.parametrize("preference", ["strict", "unrestricted", "default"])
def test_memory_preference(preference):
    natten.set_memory_usage_preference(preference)
    assert natten.get_memory_usage_preference() == preference
    for name in ("default", "strict", "unrestricted"):
        assert getattr(natten, f"is_memory_usage_{name}")() == (name == preference)
    with pytest.raises(ValueError, match="pref must be one of"):
        natten.set_memory_usage_preference("greedy")


def _tokens(*spatial: int):
    return [torch.zeros(1, *spatial, 2, 32)] * 3


@pytest.mark.parametrize(("spatial", "forward", "backward"), [((8,), 3, 1), ((8, 8), 27, 25), ((8, 8, 8), 76, 100)])
def test_cutlass_tiles(spatial, forward, backward):
    inputs = _tokens(*spatial)
    pairs = natten.get_configs_for_cutlass_fna(*inputs)
    assert len(set(pairs)) == len(pairs) == forward
    assert len(set(natten.get_bwd_configs_for_cutlass_fna(*inputs))) == backward
    assert all(len(q) == len(kv) == len(spatial) for q, kv in pairs)


@pytest.mark.parametrize("kind", ["cutlass", "flex"])
def test_every_listed_tile_is_accepted(kind):
    query, key, value = _tokens(8, 8)
    for q_tile, kv_tile in getattr(natten, f"get_configs_for_{kind}_fna")(query, key, value):
        natten.na2d(query, key, value, 3, backend=f"{kind}-fna", q_tile_shape=q_tile, kv_tile_shape=kv_tile)
    query, key, value = _tokens(8)
    for q_tile, kv_tile in getattr(natten, f"get_configs_for_{kind}_fmha")(query, key, value):
        natten.attention(query, key, value, backend=f"{kind}-fmha", q_tile_size=q_tile, kv_tile_size=kv_tile)


@pytest.mark.parametrize("chip", ["hopper", "blackwell"])
@pytest.mark.parametrize("prefix", ["get_configs_for", "get_bwd_configs_for"])
def test_backends_of_one_chip_have_no_tiles(chip, prefix):
    assert getattr(natten, f"{prefix}_cutlass_{chip}_fna")(*_tokens(8, 8)) == []
    assert getattr(natten, f"{prefix}_cutlass_{chip}_fmha")(*_tokens(8)) == []


def test_tiles_of_wrong_tensors():
    with pytest.raises(ValueError, match="query must have shape"):
        natten.get_configs_for_cutlass_fna(*[torch.zeros(2, 3)] * 3)
    with pytest.raises(ValueError, match="query must have shape"):
        natten.get_configs_for_flex_fmha(*_tokens(8, 8))


@pytest.mark.parametrize("case", ["a", "b", "c"])
@pytest.mark.parametrize("flip", [False, True])
def test_token_permutation(recorded, case, flip):
    data = recorded("op_token_permute")
    x, tile, dilation = (data[f"{case}.{key}"] for key in ("x", "tile", "dilation"))
    permuted = token_permute.token_permute(x, tile, dilation, flip)
    assert torch.equal(permuted, data[f"{case}.permuted_{'flip' if flip else 'noflip'}"])
    assert torch.equal(token_permute.token_unpermute(permuted, x.shape[1:-2], tile, dilation, flip), x)


@pytest.mark.parametrize("spatial", [(1,), (97,), (5, 31), (13, 1), (3, 14, 9)])
@pytest.mark.parametrize("dilation", [1, 4, 13])
def test_token_permutation_round_trip(spatial, dilation):
    x = torch.randn(2, *spatial, 2, 3)
    permuted = token_permute.token_permute(x, 4, dilation)
    assert torch.equal(token_permute.token_unpermute(permuted, spatial, 4, dilation), x)


def test_wrong_token_permutations():
    with pytest.raises(ValueError, match="tensor must have shape"):
        token_permute.token_permute(torch.zeros(2, 3, 4), 4)
    with pytest.raises(ValueError, match="at least 1"):
        token_permute.token_permute(torch.zeros(2, 3, 1, 4), 0)
    with pytest.raises(ValueError, match="tensor must have shape"):
        token_permute.token_unpermute(torch.zeros(2, 5, 1, 4), (5,), 4)
