"""The command lines, from a training to predictions, and what they answer to wrong arguments."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "classification" / "dinat" / "dinat_test_digits.py")
SHORT = ["--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.batch_size=256", "param_scheduler=[]"]


def run(monkeypatch, tool, *arguments):
    """Runs a tool in this process; returns its exit status."""
    monkeypatch.delenv("VISIONATTN_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
    try:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    except SystemExit as error:
        return error.code or 0
    return 0


def test_from_training_to_predictions(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "train.py", CONFIG, "--work-dir", tmp_path, "--seed", 1, *SHORT) == 0
    assert run(monkeypatch, "train.py", CONFIG, "--work-dir", tmp_path, "--resume", *SHORT) == 0  # nothing left to do
    assert list(tmp_path.glob("vis_data/**/events.out*"))  # TensorBoard's
    best = tmp_path / "best.pth"
    out = tmp_path / "metrics.json"
    assert run(monkeypatch, "test.py", CONFIG, best, "--work-dir", tmp_path / "test", "--out", out) == 0
    assert json.loads(out.read_text()).keys() == {"top1", "top5", "loss", "mean_class_recall"}
    assert (tmp_path / "test" / "confusion_matrix.png").exists()

    Image.new("L", (8, 8), 90).save(tmp_path / "digit.png")
    (tmp_path / "broken.png").touch()
    capsys.readouterr()
    assert run(monkeypatch, "predict.py", CONFIG, best, tmp_path / "digit.png", "--out", tmp_path / "p") == 0
    assert "digit.png" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "p" / "predictions.json").read_text())[0]["guesses"]) == 5
    assert (tmp_path / "p" / "predictions.png").exists()
    both = (tmp_path / "digit.png", tmp_path / "broken.png")
    assert run(monkeypatch, "predict.py", CONFIG, best, *both, "--stage", -1) == 1
    assert "1 of 2 images could not be read" in capsys.readouterr().err

    target = tmp_path / "weights.safetensors"
    assert run(monkeypatch, "convert_checkpoint.py", "dinat_test", best, target, "--num-classes", 10) == 0
    assert run(monkeypatch, "convert_checkpoint.py", "dinat_test", best, target, "--num-classes", 10) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--fsdp"]], ids=["ddp", "fsdp"])
def test_torchrun(tmp_path, how):
    """Two processes from the command line; that their losses are right is tests/engine/test_processes.py's."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "tools/train.py"]
    options = [CONFIG, "--launcher", "pytorch", "--work-dir", str(tmp_path), *how, *SHORT]
    subprocess.run([*command, *options], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    assert (tmp_path / "best.pth").exists()


def test_dry_run(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "train.py", CONFIG, "--dry-run", "--work-dir", tmp_path, "--amp") == 0
    out = capsys.readouterr().out
    assert "NeighborhoodAttention2D" in out
    assert "1,198 training images, 18 batches of 64x3x32x32" in out
    assert "one step: loss" in out


def test_benchmark(monkeypatch, tmp_path, capsys):
    options = ["--img-size", 64, "--batch-size", 2, "--seconds", 0.01, "--device", "cpu", "--out", tmp_path]
    assert (
        run(monkeypatch, "benchmark.py", "dinat_test", "test_convnext", "--mode", "forward", "training", *options) == 0
    )
    assert "images/s" in capsys.readouterr().out
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["dinat_test", "dinat_test", "test_convnext", "test_convnext"]
    assert (tmp_path / "benchmark.png").exists()


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("train.py", ["nope.py"], "error: no config file at nope.py"),
        ("train.py", [CONFIG, "--cfg-options", "model.name=vgg99"], "error: timm and visionattn have no model 'vgg99'"),
        ("train.py", [CONFIG, "--resume", "gone.pth"], "error: no checkpoint at gone.pth"),
        ("train.py", [CONFIG, "--fsdp"], "error: fsdp needs launcher pytorch"),
        ("train.py", [CONFIG, "--amp", "float64"], "invalid choice: 'float64'"),
        ("test.py", [CONFIG], "the following arguments are required: checkpoint"),
        ("test.py", [CONFIG, "gone.pth"], "gone.pth"),
        ("predict.py", ["dinat_test", "gone.pth", "nowhere/*.png"], "error: nowhere/*.png is no file"),
        ("predict.py", ["dinat_test", "gone.pth", CONFIG], "gone.pth"),
        ("benchmark.py", ["dinat_test", "--batch-size", "0"], "error: batch_size and seconds must be positive"),
        ("convert_checkpoint.py", ["dinat_test", "gone.pth", "out.npz"], "error: target must end in"),
    ],
)
def test_wrong_arguments(monkeypatch, tmp_path, capsys, tool, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, tool, *arguments) == 2
    assert message in capsys.readouterr().err
