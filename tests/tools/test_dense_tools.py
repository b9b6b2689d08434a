"""The command lines for detectors and segmenters: a data set, a training, an evaluation, a benchmark."""

import json

import pytest

from tests.engine.dense import NARROW, TASKS
from tests.engine.helpers import CONFIGS
from tests.tools.test_tools import run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    options = ["--train", 4, "--val", 2, "--size", 64, "--digits", 1, 2, "--scale", 0.3, 0.5]
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "make_digits_coco.py", folder, *options) == 0
        assert run(patch, "make_digits_coco.py", folder, *options) == 2  # it exists
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_from_training_to_metrics(task, scenes, monkeypatch, tmp_path, capsys):
    config = CONFIGS / TASKS[task]
    short = [
        "--cfg-options",
        f"data_root={scenes}",
        f"model.model_args={NARROW[task]}",
        "train_dataloader.batch_size=2",
        "train_cfg.max_epochs=1",
        "param_scheduler=[]",
    ]
    assert run(monkeypatch, "train.py", config, "--work-dir", tmp_path, "--amp", *short) == 0
    out = tmp_path / "metrics.json"
    test = [config, tmp_path / "last.pth", "--work-dir", tmp_path / "test", "--out", out]
    assert run(monkeypatch, "test.py", *test, *short) == 0
    metrics = json.loads(out.read_text())
    assert {"detection": "bbox_map50", "segmentation": "miou"}[task] in metrics
    assert len(list((tmp_path / "predictions").glob("*.png"))) == 2


def test_missing_data_set(monkeypatch, tmp_path, capsys):
    options = ["--work-dir", tmp_path, "--cfg-options", f"data_root={tmp_path}"]
    assert run(monkeypatch, "train.py", CONFIGS / TASKS["detection"], *options) == 2
    assert "error: no annotation file at" in capsys.readouterr().err


def test_benchmark(monkeypatch, tmp_path, capsys):
    options = ["--task", "segmentation", "--size", 64, 64, "--batch-size", 2, "--seconds", 0.001, "--dtype", "float32"]
    assert run(monkeypatch, "benchmark_dense.py", "van_test", "--device", "cpu", *options, "--out", tmp_path) == 0
    assert json.loads((tmp_path / "benchmark_dense.json").read_text())["rows"][0]["model"] == "van_test"
    assert (tmp_path / "benchmark_dense.png").exists()
    assert run(monkeypatch, "benchmark_dense.py", "van_test", "--seconds", 0) == 2
