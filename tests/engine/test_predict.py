"""Prediction, attention maps, conversion and benchmark."""

import json
import time

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from tests.engine.helpers import CONFIGS
from visionattn.engine.benchmark import benchmark_model, peak_memory, time_median
from visionattn.engine.checkpoint import CheckpointError, atomic_save
from visionattn.engine.convert import convert_file
from visionattn.engine.predict import Predictor, write_results

DIGITS = str(CONFIGS / "classification" / "dinat" / "dinat_test_digits.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    net = timm.create_model("dinat_test", num_classes=10)
    names = ["zero", "one", *map(str, range(2, 10))]
    atomic_save({"state_dict": net.state_dict(), "meta": {"classes": names}}, path)
    return path


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    ramp = np.linspace(0, 255, 60 * 40).astype(np.uint8).reshape(40, 60)
    Image.fromarray(ramp).save(folder / "a_grey.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "b_16bit.png")
    Image.new("CMYK", (50, 30), (0, 90, 0, 0)).save(folder / "c_cmyk.jpg")
    Image.new("RGBA", (8, 90), (255, 0, 0, 40)).save(folder / "d_alpha.png")
    Image.new("RGB", (1, 1)).save(folder / "e_pixel.png")
    (folder / "f_empty.png").touch()
    (folder / "g_text.png").write_text("no image")
    whole = (folder / "a_grey.png").read_bytes()
    (folder / "h_cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_odd_images(weights, odd_images, tmp_path):
    paths = sorted(odd_images.iterdir())
    results = Predictor(DIGITS, weights, device="cpu")(paths, topk=3, stage=0, batch_size=3)
    problems = {result["path"][-10:]: result["error"] for result in results if result["error"]}
    assert len(problems) == 3
    assert "empty" in problems["_empty.png"]
    assert "not an image" in problems["g_text.png"]
    assert "truncated" in problems["/h_cut.png"]
    for result in results[:5]:
        assert result["attention"].shape == (8, 8)
        assert result["image"].size == (32, 32)
        values = [value for _, value in result["guesses"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
    grey, deep = results[0]["guesses"], results[1]["guesses"]
    assert [name for name, _ in grey] == [name for name, _ in deep]  # 16 bits mean the same picture
    write_results(results, tmp_path)
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert Image.open(tmp_path / "predictions.png").width > 500


def test_predictions_are_the_models(weights, odd_images):
    predictor = Predictor(DIGITS, weights, device="cpu")
    result = predictor([odd_images / "a_grey.png"], topk=10)[0]
    image = Image.open(odd_images / "a_grey.png").convert("RGB")
    with torch.no_grad():
        expected = predictor.net(predictor.transform(image)[None]).softmax(1)[0]
    found = dict(result["guesses"])
    assert result["attention"] is None
    assert found["zero"] == pytest.approx(expected[0].item(), abs=1e-6)


def test_model_name_instead_of_config(tmp_path, odd_images):
    net = timm.create_model("nat_test")
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    result = Predictor("nat_test", tmp_path / "w.safetensors", device="cpu")([odd_images / "a_grey.png"], topk=1)[0]
    assert not result["guesses"][0][0].isdigit()  # ImageNet's names


def test_conversion_round_trip(weights, tmp_path):
    report = convert_file("dinat_test", weights, tmp_path / "a.safetensors", num_classes=10)
    assert report.missing == []
    assert report.parameters == sum(p.numel() for p in timm.create_model("dinat_test", num_classes=10).parameters())
    again = convert_file("dinat_test", tmp_path / "a.safetensors", tmp_path / "b.pth", num_classes=10)
    assert again == report
    found = torch.load(tmp_path / "b.pth", weights_only=True)
    assert torch.equal(found["head.fc.weight"], torch.load(weights, weights_only=True)["state_dict"]["head.fc.weight"])


def test_conversion_reports_a_missing_head(weights, tmp_path):
    report = convert_file("dinat_test", weights, tmp_path / "a.pth", num_classes=7)
    assert report.missing == ["head.fc.weight", "head.fc.bias"]
    assert report.warnings


def test_failed_conversion_leaves_the_target_alone(weights, tmp_path, monkeypatch):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(ValueError, match="exists"):
        convert_file("dinat_test", weights, target, num_classes=10)
    with pytest.raises(CheckpointError, match="not fit"):
        convert_file("nat_mini", weights, target, overwrite=True)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        convert_file("dinat_test", weights, target, num_classes=10, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["dinat_test", "test_convnext", "vitrpb_test"])
def test_benchmark(name, training):
    row = benchmark_model(name, batch_size=2, img_size=64, training=training, seconds=0.01)
    assert row["error"] is None
    assert row["images_per_s"] > 0
    assert (row["latency_ms"] is None) == training
    assert row["gmacs"] > 0
    assert row["params_m"] < 1


def test_measures():
    memory = peak_memory(lambda: torch.ones(64, 2**18).sum(), torch.device("cpu"))
    assert memory is None or 55 < memory < 140
    assert time_median(lambda: time.sleep(0.002), torch.device("cpu"), 0.01) >= 0.002
