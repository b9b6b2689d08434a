"""What every backbone of ours owes timm and its users, on the `_test` variants."""

import copy
import math

import pytest
import timm
import torch
from torch import nn

import visionattn
from tests.models.families import CONTRACT

OURS = timm.list_models(module=visionattn.models.__all__)


def make(case, **kwargs):
    torch.manual_seed(0)
    name, arguments = CONTRACT[case][1]
    return timm.create_model(name, **{**arguments, **kwargs}).eval()


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nhwc(model, features):
    """A network's own square map with the channels last; of tokens, without those before the map."""
    if model.output_fmt == "NLC":
        features = features[:, model.num_prefix_tokens :]
        return features.unflatten(1, [math.isqrt(features.shape[1])] * 2)
    return features if model.output_fmt == "NHWC" else features.permute(0, 2, 3, 1)


each_model = pytest.mark.parametrize("case", CONTRACT)
# Tracing takes many seconds a model: one of each kind in the quick tests.
each_traced_model = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case in family.slow_contract else ())
        for case, (family, _) in CONTRACT.items()
    ],
)


@each_model
@pytest.mark.parametrize("size", [(64, 64), (32, 32), (50, 70), (33, 97), (7, 9)])
def test_any_size(case, size):
    model = make(case)
    first, last = model.feature_info[0]["reduction"], model.feature_info[-1]["reduction"]
    with torch.no_grad():
        logits = model(images(2, 3, *size))
        maps = model.forward_intermediates(images(2, 3, *size), intermediates_only=True)
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()
    for feature, reduction in ((maps[0], first), (maps[-1], last)):
        assert feature.shape[-2:] == tuple(math.ceil(side / reduction) for side in size)


@each_model
def test_size_changes_at_run_time(case):
    model = make(case)
    with torch.no_grad():
        before = model(images(1, 3, 64, 64))
        model(images(1, 3, 96, 48))
        assert torch.equal(model(images(1, 3, 64, 64)), before)


@each_model
def test_one_image_does_not_depend_on_its_batch(case):
    model, x = make(case), images(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)
    assert model(x[:0]).shape == (0, 1000)


@each_model
def test_features_only(case):
    x, full = images(1, 3, 64, 64), make(case)
    model = make(case, features_only=True)
    info = model.feature_info
    maps = model(x)
    for i, feature, channels in zip(info.out_indices, maps, info.channels()):
        assert feature.shape[1] == channels
        assert feature.is_contiguous() or feature.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(feature, full.forward_intermediates(x, indices=[i], intermediates_only=True)[0])
    assert len(make(case, features_only=True, out_indices=(-2, -1))(x)) == 2
    assert len(make(case, features_only=True, out_indices=2)(x)) == 2


@each_model
def test_forward_intermediates(case):
    model, x = make(case), images(2, 3, 64, 64)
    count = len(model.feature_info)
    final, taps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert len(taps) == count
    for i in range(count):
        (early,) = model.forward_intermediates(x, indices=[i], stop_early=True, intermediates_only=True)
        assert torch.equal(early, taps[i])
        (last,) = model.forward_intermediates(x, indices=[i - count], intermediates_only=True, output_fmt="NHWC")
        assert torch.equal(last.permute(0, 3, 1, 2), taps[i])
    _, normed = model.forward_intermediates(x, indices=1, norm=True, output_fmt="NHWC")
    torch.testing.assert_close(normed[0], nhwc(model, final))
    with pytest.raises(AssertionError, match="NCHW or NHWC"):
        model.forward_intermediates(x, output_fmt="NLC")


@each_model
@pytest.mark.parametrize("index", range(4))
def test_pruned_model(case, index):
    model, x = make(case), images(1, 3, 64, 64)
    index = min(index, len(model.feature_info) - 1)
    tap = model.forward_intermediates(x, indices=[index], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([index], prune_norm=True) == [index]
    features = model.forward_features(x)
    torch.testing.assert_close(nhwc(model, features).permute(0, 3, 1, 2), tap)
    features.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.num_features == model.head_hidden_size == model.feature_info[index]["num_chs"]


@each_model
def test_classifier(case):
    model, x = make(case, num_classes=7, in_chans=1), images(2, 1, 64, 64)
    assert model(x).shape == (2, 7)
    assert model.get_classifier().out_features == 7
    features = model.forward_features(x)
    assert nhwc(model, features).shape[3] == model.num_features
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), model.forward_head(features, pre_logits=True))
    model.reset_classifier(0, "")
    assert model(x).shape == features.shape
    model.reset_classifier(5, "max")
    assert model(x).shape == (2, 5)
    model.reset_classifier(3)
    assert model.head.global_pool.pool_type == "max"


@each_model
def test_checkpointing_changes_nothing(case):
    x = images(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model = make(case).train()
        model.set_grad_checkpointing(enable)
        model(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert all(g is not None for g in gradients[-1].values())
        features = model.forward_intermediates(x, intermediates_only=True)[-1]
        features.sum().backward()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


@each_traced_model
def test_compiles_whole(case):
    torch.compiler.reset()  # the families share a forward, whose recompilations are limited
    model, x = make(case).train().double(), images(1, 3, 64, 64).double()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    for net in (model, compiled):
        net(x).square().sum().backward()
    torch.testing.assert_close(compiled(x), model(x))
    for (name, expected), actual in zip(model.named_parameters(), compiled.parameters()):
        torch.testing.assert_close(actual.grad, expected.grad, msg=name)


@each_traced_model
def test_exports(case):
    model, x = make(case), images(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    more = images(3, 3, 64, 64)
    torch.testing.assert_close(program.module()(more), model(more))


@each_traced_model
def test_exports_native_operators(case):
    model, x = make(case, exportable=True), images(1, 3, 64, 64)
    program = torch.export.export(model, (x,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any(name.startswith("visionattn") for name in called)
    torch.testing.assert_close(program.module()(x), make(case)(x), rtol=1e-4, atol=1e-5)


@each_model
def test_precisions_and_layouts(case):
    model, x = make(case), images(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            copy.deepcopy(model).to(memory_format=torch.channels_last)(x), expected, rtol=1e-4, atol=1e-5
        )
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                assert model(x).dtype == dtype
                torch.testing.assert_close(model(x).float(), expected, rtol=0.1, atol=0.1)
        low = copy.deepcopy(model).to(torch.bfloat16)(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.1)


@each_model
def test_construction_elsewhere(case):
    with torch.device("meta"):
        assert all(p.is_meta for p in make(case).parameters())
    double = make(case, dtype=torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert double(images(1, 3, 64, 64).double()).dtype == torch.float64
    model = make(case, device="meta").to_empty(device="cpu")
    for p in model.parameters():
        nn.init.constant_(p, float("nan"))
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())


@each_model
def test_optimizer_groups(case):
    model = make(case)
    names = dict(model.named_parameters())
    kept = CONTRACT[case][0].no_weight_decay
    assert model.no_weight_decay() == {name for name in names if name.endswith(kept) and kept}
    for coarse in (False, True):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=coarse))
        layers = {name: layer for layer, members in groups.items() for name in members}
        assert set(layers) == set(names)
        order = [layers[name] for name in names]  # parameters are listed in the order of the forward pass
        assert order == sorted(order)


def test_dropout_options_are_used():
    rates = dict(drop_rate=0.1, pos_drop_rate=0.2, proj_drop_rate=0.3, attn_drop_rate=0.4, drop_path_rate=0.5)
    for name, blocks in (("nat_test", 7), ("nat_isotropic_test", 4)):
        model = timm.create_model(name, **rates).train()
        assert model(images(2, 3, 64, 64)).isfinite().all()
        assert model.head.drop.p == 0.1
        assert model.pos_drop.p == 0.2
        paths = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
        assert paths[::2] == pytest.approx([0.5 * i / (blocks - 1) for i in range(1, blocks)])
        attentions = [m for m in model.modules() if type(m).__name__ == "NeighborhoodAttention2D"]
        assert {(m.attn_drop.p, m.proj_drop.p) for m in attentions} == {(0.4, 0.3)}


@pytest.mark.parametrize(
    ("variant", "alias"),
    [
        ("nat_mini", "nat_m"),
        ("dinat_small", "dinat_s"),
        ("dinat_large", "dinat_l"),
        ("dinat_large_384_11x11", "dinat_l_384_11x11"),
        ("dinat_large_21k", "dinat_l_21k"),
        ("dinat_s_small", "dinat_s_s"),
        ("dinat_s_large_384", "dinat_s_l_384"),
        ("dinat_isotropic_base", "dinat_iso_b"),
        ("vitrpb_small", "vitrpb_s"),
    ],
)
def test_short_names(variant, alias):
    assert {variant, alias} <= set(OURS)
    model = timm.create_model(alias, device="meta")
    assert model.pretrained_cfg["architecture"] == variant
    assert str(model) == str(timm.create_model(variant, device="meta"))


def test_every_name_is_documented_and_no_name_of_timm_is_taken():
    assert len(OURS) == len(set(OURS)) >= 50
    for name in OURS:
        assert timm.model_entrypoint(name).__doc__
        assert timm.model_entrypoint(name).__module__.startswith("visionattn.models.")


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "match"),
    [
        ("nat_test", {"no_such_option": 1}, TypeError, "no_such_option"),
        ("vitrpb_test", {"no_such_option": 1}, TypeError, "no_such_option"),
        ("nat_test", {"padding": "reflect"}, ValueError, "padding must be"),
        ("nat_test", {"stem_type": "linear"}, ValueError, "stem_type must be 'conv' or 'patch'"),
        ("nat_test", {"num_heads": (1, 2)}, ValueError, "num_heads must have one entry per stage"),
        ("nat_test", {"num_heads": (3, 2, 4, 8)}, ValueError, "dim must be a multiple of num_heads"),
        ("nat_test", {"kernel_size": 1}, ValueError, "kernel_size must be"),
        ("dinat_test", {"dilations": "imagenet"}, ValueError, "dilations must be one of"),
        ("dinat_test", {"dilations": [[1, 2]]}, ValueError, "dilations must have one entry per block"),
        ("dinat_test", {"dilations": [[1, 0], [1, 1], [1, 1], [1]]}, ValueError, "dilations must be at least 1"),
        ("dinat_test", {"dilations": [[1, 1.5], [1, 1], [1, 1], [1]]}, TypeError, "dilations must hold ints"),
        ("dinat_test", {"dilations": 2}, TypeError, "dilations must be a name or one list of ints per stage"),
        ("nat_isotropic_test", {"dilations": 2}, ValueError, "dilations must be a non-empty tuple"),
        ("vitrpb_test", {"num_heads": 3}, ValueError, "dim must be a multiple of num_heads"),
        ("nat_test", {"pretrained": True}, RuntimeError, "No pretrained weights exist for nat_test"),
        ("nat_mini.imagenet", {"pretrained": True}, RuntimeError, "Invalid pretrained tag"),
    ],
)
def test_wrong_arguments(name, kwargs, error, match):
    with pytest.raises(error, match=match):
        timm.create_model(name, **kwargs)


@each_model
@pytest.mark.parametrize(
    "shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 64), (1, 3, 64, 0), (1, 64, 64, 3), (1, 3, 1, 64, 64)]
)
def test_wrong_shapes(case, shape):
    model = make(case)
    for forward in (model, model.forward_intermediates):
        with pytest.raises(ValueError, match=r"x must be images of shape \[batch, 3, height, width\]"):
            forward(torch.zeros(shape))


def test_wrong_dtype():
    with pytest.raises(TypeError, match=r"x must be floating-point images.*uint8"):
        make("nat_test")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
