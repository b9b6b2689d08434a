"""The adapter, its optimizer constructor and neck, and what lets OpenMMLab run on today's packages."""

import pkgutil
import sys

import mmengine.config.config as mmengine_config
import pytest
import timm
import torch
import torchvision
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import nn

from tests.models.families import fixture_cases, recorded_cases
from tests.parity import assert_matches, image, load_fixture, official_state_dict
from visionattn.downstream.openmmlab import (
    FinerFPN,
    LayerDecayOptimWrapperConstructor,
    VisionAttnBackbone,
    enable_without_mmcv_ops,
    load_weights,
    mend_mmengine,
)


class Detector(BaseModule):
    """As much of a detector as an optimizer constructor looks at."""

    def __init__(self, **backbone):
        super().__init__()
        self.backbone = MODELS.build({"type": "VisionAttnBackbone", **backbone})
        self.head = nn.Conv2d(128, 4, 1)


@pytest.fixture(scope="module")
def ops():
    """mmcv's operators out of torchvision's; a compiled mmcv keeps its own."""
    enable_without_mmcv_ops()
    import mmcv.ops

    return mmcv.ops


# Adapter


@pytest.mark.parametrize(
    ("family", "name", "section", "index"),
    [case for case in fixture_cases("dense", ("cases",)) if case.values[3] == 0],
)
def test_official_checkpoint_gives_the_official_maps(family, name, section, index, tmp_path):
    fixture = load_fixture(family.fixtures, name)
    case = recorded_cases(fixture, section)[index]
    torch.save({"state_dict": official_state_dict(fixture)}, tmp_path / "official.pth")
    variant, arguments = family.dense[name]
    backbone = VisionAttnBackbone(
        variant, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "official.pth")}, **arguments
    )
    backbone.init_weights()
    x = image(**{key: case["input"][key] for key in ("shape", "seed")}).float()
    with torch.no_grad():
        maps = backbone.eval()(x)
    for i, feature in enumerate(maps):
        assert_matches(f"map {i}", feature, case["outputs"][family.dense_tap.format(i)], family.float32_tolerance)


def test_classification_checkpoint_starts_a_detector(tmp_path, monkeypatch):
    source = timm.create_model("dinat_test")
    torch.save(source.state_dict(), tmp_path / "dinat.pth")
    logged = []
    monkeypatch.setattr("visionattn.downstream.openmmlab.backbone.print_log", lambda text, **_: logged.append(text))
    model = Detector(
        model_name="dinat_test",
        drop_path_rate=0.3,
        with_cp=True,
        dilations="coco",
        init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "dinat.pth")},
    )
    model.init_weights()
    weights = model.backbone.body.model.state_dict()
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in weights.items())
    assert "8 parameters start anew: norms.0.weight" in logged[0]
    assert all(stage.grad_checkpointing for stage in model.backbone.body.model.stages)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model_name": "nat_test", "init_cfg": {"type": "Kaiming"}}, ValueError, "init_cfg must be None or dict"),
        ({"model_name": "nat_test", "out_indices": (0, 7)}, ValueError, "out_indices must be stages of nat_test"),
        ({"model_name": "nat_test", "dilation": 2}, TypeError, "dilation"),
    ],
)
def test_wrong_arguments(options, error, match):
    with pytest.raises(error, match=match):
        VisionAttnBackbone(**options)


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (
            lambda: timm.create_model("van_test").state_dict(),
            ValueError,
            "weights.pth: state_dict does not fit nat_test",
        ),
        (lambda: {"state_dict": {}}, ValueError, "weights.pth: state_dict holds no weights"),
        (None, FileNotFoundError, "there is no file .*published at https://github.com/SHI-Labs"),
    ],
)
def test_wrong_checkpoint(content, error, match, tmp_path):
    path = tmp_path / "weights.pth"
    if content:
        torch.save(content(), path)
    backbone = VisionAttnBackbone("nat_test", init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    with pytest.raises(error, match=match):
        backbone.init_weights()


def test_whole_models_load_strictly():
    torch.manual_seed(0)
    source, model = (Detector(model_name="dinat_test") for _ in range(2))
    own = source.state_dict()
    load_weights(model, {"state_dict": own, "meta": {}})
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    # as the paper's detectors are saved: the classifier's names, output norms beside them
    official = {name: value for name, value in own.items() if not name.startswith("backbone.")}
    for name, value in own.items():
        if name.startswith("backbone.norms."):
            official[name.replace("norms.", "norm")] = value
        elif name.startswith("backbone."):
            official[name.replace("body.model.", "")] = value
    other = Detector(model_name="dinat_test")
    load_weights(other, official)
    assert all(torch.equal(value, own[name]) for name, value in other.state_dict().items())
    with pytest.raises(ValueError, match=r"does not fit this Detector .* missing: backbone.body.*not of this model"):
        load_weights(Detector(model_name="nat_test", out_indices=(3,)), Detector(model_name="van_test").state_dict())
    official.pop("backbone.norm2.weight")
    with pytest.raises(ValueError, match=r"the checkpoint's backbone has no norms.2.weight"):
        load_weights(other, official)


# Layer decay


def test_layers_learn_slower_towards_the_stem():
    model = Detector(model_name="dinat_test", frozen_stages=0)
    wrapper = build_optim_wrapper(
        model,
        {
            "type": "OptimWrapper",
            "constructor": "LayerDecayOptimWrapperConstructor",
            "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05},
            "paramwise_cfg": {"layer_decay": 0.5, "custom_keys": {"norm": {"decay_mult": 0.0}}},
        },
    )
    groups = wrapper.optimizer.param_groups
    options = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name: options.get(id(p)) for name, p in model.named_parameters()}
    assert found["head.weight"] == (1e-3, 0.05)
    assert found["backbone.norms.0.weight"] == (1e-3, 0.0)
    assert all(value is None for name, value in found.items() if ".stem." in name)  # frozen
    stages = [
        next(value[0] for name, value in found.items() if f"stages.{i}.blocks.0" in name and value) for i in range(4)
    ]
    assert stages == sorted(stages)
    assert stages[3] == pytest.approx(5e-4)
    assert all(value[1] == 0.0 for name, value in found.items() if ".norm1." in name and value)
    assert len(groups) < 25


@pytest.mark.parametrize("layer_decay", [None, 0, 1.5])
def test_wrong_layer_decay(layer_decay):
    with pytest.raises(ValueError, match=r"layer_decay must be in \(0, 1\], got"):
        LayerDecayOptimWrapperConstructor({"optimizer": {"type": "SGD", "lr": 1.0}}, {"layer_decay": layer_decay})


def test_layer_decay_needs_our_backbone():
    constructor = LayerDecayOptimWrapperConstructor({"optimizer": {"type": "SGD", "lr": 1.0}}, {"layer_decay": 0.8})
    with pytest.raises(TypeError, match="needs a VisionAttnBackbone, Conv2d has none"):
        constructor(nn.Conv2d(1, 1, 1))


# Neck


def test_finer_pyramid():
    neck = FinerFPN([8, 16, 32], 4)
    maps = [torch.randn(2, channels, 20 // 2**i, -(-28 // 2**i)) for i, channels in enumerate((8, 16, 32))]
    levels = neck(maps)
    assert [tuple(level.shape) for level in levels] == [
        (2, 4, 40, 56), (2, 4, 20, 28), (2, 4, 10, 14), (2, 4, 5, 7), (2, 4, 3, 4),
    ]  # fmt: skip
    sum(level.sum() for level in levels).backward()
    assert all(p.grad is not None for p in neck.parameters())


# mmcv's operators


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_roi_align(ops, dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 20).to(dtype).requires_grad_()
    rois = torch.tensor([[0, 2.0, 3, 30, 40], [1, 10, 0, 70, 33]])
    out = ops.RoIAlign((5, 4), spatial_scale=0.25, sampling_ratio=2, aligned=True)(x, rois)
    expected = torchvision.ops.roi_align(x.float(), rois, (5, 4), 0.25, 2, True)
    weight = torch.randn_like(expected)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)
    grads = [torch.autograd.grad((y.float() * weight).sum(), x)[0].float() for y in (out, expected)]
    torch.testing.assert_close(*grads, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms(ops, offset):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 5 + torch.rand(40, 2, generator=generator) * 10], 1)
    scores = torch.rand(40, generator=generator)
    _, kept = ops.nms(boxes, scores, iou_threshold=0.5, offset=offset)
    expected, order = [], scores.argsort(descending=True).tolist()
    grown = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    overlaps = torchvision.ops.box_iou(grown, grown)
    for i in order:  # the definition
        if all(overlaps[i, j] <= 0.5 for j in expected):
            expected.append(i)
    assert kept.tolist() == expected


@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(ops, weighted):
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    torch.manual_seed(0)
    x = torch.randn(6, 4, requires_grad=True)
    target = torch.tensor([0, 3, 4, 1, 4, 2])  # 4 is the background
    weight = torch.rand(4) if weighted else None
    loss = ops.sigmoid_focal_loss(x, target, 1.5, 0.3, weight, "none")
    one_hot = nn.functional.one_hot(target, 5)[:, :4].float()
    expected = py_sigmoid_focal_loss(x, one_hot, gamma=1.5, alpha=0.3, reduction="none")
    if weighted:
        expected = expected * torch.cat([weight, torch.ones(1)])[target][:, None]
    torch.testing.assert_close(loss, expected)
    upstream = torch.rand_like(loss)
    grads = [torch.autograd.grad((y * upstream).sum(), x)[0] for y in (loss, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution(ops, modulated):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 9, 10), torch.randn(6, 4, 3, 3)
    offset, mask, bias = torch.randn(2, 36, 5, 5), torch.rand(2, 18, 5, 5), torch.randn(6)
    inputs = [x, offset, mask, weight, bias] if modulated else [x, offset, weight]
    for tensor in inputs:
        tensor.requires_grad_()
    if modulated:
        out = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 2, 1, 1, 2, 2)
    else:
        out = ops.deform_conv2d(x, offset, weight, 2, 1, 1, 2, 2)
    expected = torchvision.ops.deform_conv2d(
        x, offset, weight, bias if modulated else None, 2, 1, 1, mask if modulated else None
    )
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(out)
    grads = [torch.autograd.grad((y * upstream).sum(), inputs, retain_graph=True) for y in (out, expected)]
    torch.testing.assert_close(*grads)


def test_other_operators_say_what_they_need(ops):
    if not enable_without_mmcv_ops():
        pytest.skip("a compiled mmcv has them all")
    with pytest.raises(NotImplementedError, match="no counterpart of mmcv's softnms: it needs a compiled mmcv"):
        ops.soft_nms(torch.rand(2, 4), torch.rand(2))
    with pytest.raises(NotImplementedError, match="pool_mode must be 'avg', got 'max'"):
        ops.roi_align(torch.rand(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, "max")


def test_compiled_mmcv_stays(monkeypatch, ops):
    compiled = type(sys)("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert not enable_without_mmcv_ops()
    assert sys.modules["mmcv._ext"] is compiled


# mmengine


def test_configs_build_on_other_packages(tmp_path):
    mend_mmengine()
    (tmp_path / "config.py").write_text('_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py"]\nx = 1\n')
    assert Config.fromfile(tmp_path / "config.py").model.type == "MaskRCNN"
    with pytest.raises(ModuleNotFoundError, match="no_such_package is not installed"):
        mmengine_config.get_installed_path("no_such_package")


def test_configs_that_the_model_index_names():
    mend_mmengine()
    path = mmengine_config._get_external_cfg_path(
        mmengine_config.get_installed_path("mmdet"), "retinanet/retinanet_r50_fpn_1x_coco.py"
    )
    assert path.endswith("mmdet/.mim/configs/retinanet/retinanet_r50_fpn_1x_coco.py")


def test_logged_numbers_load(tmp_path):
    mend_mmengine()
    torch.save({"hub": {"loss": HistoryBuffer([1.0, 3.0], [1, 1])}}, tmp_path / "epoch_1.pth")
    content = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), map_location="cpu")
    assert content["hub"]["loss"].statistics("mean") == 2.0


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        Evil(print, ("code from a file",)),
        Evil(getattr, (HistoryBuffer, "__init__")),
        Evil(getattr, (pkgutil.ModuleInfo, "count")),
    ],
)
def test_files_run_no_code(content, tmp_path, capsys):
    mend_mmengine()
    torch.save({"hub": content}, tmp_path / "epoch_1.pth")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), map_location="cpu")
    assert "code from a file" not in capsys.readouterr().out


def test_python_without_find_loader(monkeypatch):
    monkeypatch.delattr(pkgutil, "find_loader", raising=False)
    mend_mmengine()
    assert pkgutil.find_loader("mmengine") is not None
    assert pkgutil.find_loader("no_such_package") is None
