"""Exported models give what the models give; what doesn't is not written."""

import sys

import pytest
import timm
import torch
from torch import nn

from tests.models.families import CONTRACT, FAMILIES
from visionattn.engine import export
from visionattn.engine.checkpoint import CheckpointError
from visionattn.engine.export import ExportError, FlatOutput, build_model, export_model, trace, write_checked


def exports():
    """Each family's first case with its first stage; every case with all stages among the slow tests."""
    cases = []
    for family in FAMILIES.values():
        quick = [case for case in family.contract if case not in family.slow_contract]
        cases += [pytest.param(case, (0,), id=f"{case}-stage0") for case in quick[:1]]
    cases += [pytest.param(case, None, id=case, marks=pytest.mark.slow) for case in CONTRACT]
    return [*cases, pytest.param("test_mambaout", (0, 1), id="test_mambaout")]  # timm's network


@torch.no_grad()
def pair(name, **options):
    """A model with native operators, and one with ours; no weight of theirs is zero or small, as many are at first."""
    native, ours = build_model(name, exportable=True, **options), build_model(name, **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in native.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    ours.load_state_dict(native.state_dict())
    return FlatOutput(native), FlatOutput(ours)


@pytest.mark.parametrize(("case", "stages"), exports())
def test_both_formats(case, stages, tmp_path):
    name, arguments = CONTRACT[case][1] if case in CONTRACT else (case, {})
    native, ours = pair(name, out_indices=stages, **arguments)
    size = 32 if stages else 64
    shapes = [(2, 3, size, size), (1, 3, size, size), (5, 3, size, size)]
    program = trace(native, shapes[0], dynamic_batch=True)
    for format, suffix in export.FORMATS.items():
        report = write_checked(program, tmp_path / f"a{suffix}", format, ours, shapes)
        assert report.path.stat().st_size > 0
        assert report.checked == shapes
        assert report.refused == []
        assert report.error < 1e-5
        assert [shape[:2] for shape in report.outputs.values()] == [["batch", c] for c in native.net.channels]


def test_free_sizes(tmp_path):
    """AttNet's bands of a map are of any length."""
    native, _ = pair("attnet_test", out_indices=(0,))
    torch.save(native.net.state_dict(), tmp_path / "weights.pth")
    report = export_model(
        "attnet_test",
        tmp_path / "a.onnx",
        img_size=(32, 64),
        batch_size=2,
        dynamic_size=True,
        out_indices=(0,),
        checkpoint=tmp_path / "weights.pth",
    )
    assert report.checked == [(2, 3, 32, 64), (2, 3, 64, 128), (2, 3, 77, 67), (2, 3, 32, 32)]
    assert report.refused == []
    batch, channels, height, width = report.outputs["stride4"]
    assert (batch, channels, "height" in height, "width" in width) == (2, native.net.channels[0], True, True)
    model = export.load_onnx(str(report.path))
    images = torch.rand(2, 3, 80, 70)
    for found, expected in zip(model(images), native(images)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_classifier(tmp_path):
    torch.save(timm.create_model("van_test", num_classes=7, in_chans=1).state_dict(), tmp_path / "weights.pth")
    options = dict(pyramid=False, num_classes=7, in_chans=1, checkpoint=tmp_path / "weights.pth")
    report = export_model("van_test", tmp_path / "a.pt2", "torch", 32, 3, **options)
    assert report.outputs == {"logits": [3, 7]}
    assert report.checked == [(3, 1, 32, 32)]
    with pytest.raises(ExportError, match=r"with images \[2, 1, 32, 32\] the exported model fails"):
        export.difference(export.load_torch(str(report.path)), None, (2, 1, 32, 32))


class Pooled(nn.Module):
    """A small thing to export, whose output is one tensor."""

    def __init__(self, fixed=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
        self.fixed = fixed

    def forward(self, x):
        if self.fixed and x.shape[2] != 32:
            x = x * 2
        return x.mean((2, 3)) * self.weight


def test_what_differs_is_not_written(tmp_path):
    model, other, target = FlatOutput(Pooled()), FlatOutput(Pooled()), tmp_path / "a.pt2"
    other.net.weight.data *= 1.01
    shape = (2, 3, 32, 32)
    target.write_text("precious")
    with pytest.raises(ExportError, match=r"with images \[2, 3, 32, 32\] the exported model is 9\..e-03 off"):
        write_checked(trace(model, shape), target, "torch", other, [shape])
    other.net.forward = lambda x: x.mean((2, 3))[:, :2]
    with pytest.raises(ExportError, match=r"gives \[2, 3\] instead of \[2, 2\]"):
        write_checked(trace(model, shape), target, "torch", other, [shape])
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]
    assert target.read_text() == "precious"
    larger = (2, 3, 40, 32)
    report = write_checked(trace(model, shape), target, "torch", model, [shape], [larger])
    assert (report.checked, report.refused) == ([shape], [larger])


def test_what_can_not_be_exported():
    @torch.library.custom_op("visionattn_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)
    with pytest.raises(ExportError, match=r"operators of visionattn that have no native form: visionattn_test\.twice"):
        trace(FlatOutput(nn.Sequential(Pooled(), Call(twice))), (2, 3, 32, 32))
    with pytest.raises(ExportError, match=r"^height can't be free: the model fixes what images \[2, 3, 32, 32\] have"):
        trace(FlatOutput(Pooled(fixed=True)), (2, 3, 32, 32), dynamic_size=True)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_wrong_checkpoints(tmp_path):
    torch.save(timm.create_model("nat_test").state_dict(), tmp_path / "nat.pth")
    for pyramid in (True, False):
        with pytest.raises(CheckpointError, match=r"nat\.pth"):
            build_model("van_test", pyramid, tmp_path / "nat.pth")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript.*pip install 'visionattn\[export\]'"):
        export_model("van_test", tmp_path / "a.onnx")
