"""tools/predict.py with detectors and segmenters, tools/export.py."""

import json

import pytest
import timm
import torch
from mmengine.registry import MODELS
from PIL import Image

from tests.tools.test_tools import ROOT, run
from visionattn.engine import load_config

DETECTOR = str(ROOT / "configs/detection/digits/mask_rcnn_dinat_test_torchvision.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save({"state_dict": MODELS.build(load_config(DETECTOR).model).net.state_dict(), "meta": {}}, path)
    return str(path)


def test_detect(monkeypatch, tmp_path, capsys, weights):
    Image.new("RGB", (80, 60), (200, 30, 90)).save(tmp_path / "scene.png")
    (tmp_path / "broken.png").touch()
    pictures = str(tmp_path / "*.png")
    options = ["--out", tmp_path / "out", "--threshold", 0.05, "--window", 48, 64, "--stride", 32]
    assert run(monkeypatch, "predict.py", DETECTOR, weights, pictures, *options, "--device", "cpu") == 1
    output = capsys.readouterr()
    assert "1 of 2 images could not be read" in output.err
    assert "scene.png" in output.out
    assert "broken.png is empty" in output.out
    assert (tmp_path / "out" / "pictures" / "scene.png").exists()
    json.loads((tmp_path / "out" / "predictions.json").read_text())


def test_export(monkeypatch, tmp_path, capsys):
    torch.save(timm.create_model("van_test", num_classes=7).state_dict(), tmp_path / "van.pth")
    target = tmp_path / "van.pt2"
    options = ["--format", "torch", "--checkpoint", tmp_path / "van.pth", "--img-size", 32, "--out", target]
    assert run(monkeypatch, "export.py", "van_test", *options, "--out-indices", 0, 1) == 0
    output = capsys.readouterr().out
    assert "stride8    1, 32, 4, 4" in output
    assert "as the model with images 1x3x32x32" in output
    assert [tuple(x.shape) for x in torch.export.load(target).module()(torch.zeros(1, 3, 32, 32))] == [
        (1, 16, 8, 8),
        (1, 32, 4, 4),
    ]
    assert run(monkeypatch, "export.py", "van_test", *options) == 2
    assert "exists; --overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("predict.py", [DETECTOR, "{weights}", DETECTOR], "error: detectors and segmenters need --out"),
        ("predict.py", [DETECTOR, "{weights}", DETECTOR, "--out", "x", "--stride", "9"], "error: --stride needs"),
        ("predict.py", [DETECTOR, "gone.pth", DETECTOR, "--out", "x"], "gone.pth"),
        ("export.py", ["vgg99"], "error: timm and visionattn have no model 'vgg99'"),
        ("export.py", ["van_test", "--out", "van.pt2"], "error: target must end in .onnx for format onnx"),
        ("export.py", ["van_test", "--batch-size", "0"], "error: batch_size must be at least 1, got 0"),
        ("export.py", ["van_test", "--img-size", "1", "2", "3"], "error: img_size must be a positive int or (height,"),
        ("export.py", ["van_test", "--checkpoint", "gone.pth"], "gone.pth"),
        ("export.py", ["van_test", "--out-indices", "5"], "error: out_indices must be stages of van_test, 0 to 3"),
        ("export.py", ["van_test", "--model-args", "depth=3"], "error: "),
    ],
)
def test_wrong_arguments(monkeypatch, tmp_path, capsys, weights, tool, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, tool, *(argument.format(weights=weights) for argument in arguments)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
