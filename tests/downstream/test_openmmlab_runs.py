"""`train.py` and `test.py` with mmdetection's and mmsegmentation's configs: runs, resumes, bad data."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from tests.downstream.openmmlab import CONFIGS, shrink
from visionattn.engine import load_config, openmmlab
from visionattn.engine.digit_scenes import DigitScenes, write_digit_scenes
from visionattn.engine.train import dry_run, evaluate, train

DETECTOR = CONFIGS / "detection/digits/mask_rcnn_dinat_test_mmdet.py"
SEGMENTER = CONFIGS / "segmentation/digits/upernet_ravlt_test_mmseg.py"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "digits"
    for _ in write_digit_scenes(folder, DigitScenes(size=64), {"training": 4, "validation": 3}):
        pass
    return folder


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of the data whose annotation files can be spoilt."""
    folder = tmp_path / "digits"
    for path in digits.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(digits)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def small(path, data_root, work_dir, **options) -> Config:
    config = load_config(str(path), {"data_root": str(data_root), **options}, str(work_dir))
    shrink(config.model, config.model.backbone.model_name)
    config.train_dataloader.batch_size = 2
    config.param_scheduler = None
    return config


def test_detector_trains_resumes_and_is_evaluated(digits, tmp_path):
    runner = train(
        small(DETECTOR, digits, tmp_path, **{"train_cfg.max_epochs": 1, "train_cfg.val_interval": 1}), seed=1
    )
    assert runner.iter == 2
    assert "val/coco/bbox_mAP_50" in runner.message_hub.log_scalars
    resumed = train(small(DETECTOR, digits, tmp_path, **{"train_cfg.max_epochs": 2}), resume="auto")
    assert (resumed.epoch, resumed.iter, resumed.seed) == (2, 4, 1)
    metrics = evaluate(small(DETECTOR, digits, tmp_path), str(tmp_path / "epoch_2.pth"))
    assert {"coco/bbox_mAP_50", "coco/segm_mAP_50"} <= metrics.keys()
    with pytest.raises(ValueError, match=r"does not fit this MaskRCNN .* missing: .*not of this model"):
        evaluate(
            small(CONFIGS / "detection/digits/mask_rcnn_ravlt_test_mmdet.py", digits, tmp_path),
            str(tmp_path / "epoch_2.pth"),
        )
    model = openmmlab.build_model(small(DETECTOR, digits, tmp_path), str(tmp_path / "epoch_2.pth"))
    assert model.dataset_meta["classes"] == list("0123456789")
    assert not model.training


def test_segmenter_trains_in_half_precision(digits, tmp_path):
    options = {"train_cfg.max_iters": 2, "train_cfg.val_interval": 2}
    runner = train(small(SEGMENTER, digits, tmp_path, **options), amp="bfloat16")
    assert runner.optim_wrapper.dtype == torch.bfloat16
    assert (tmp_path / "iter_2.pth").is_file()
    metrics = evaluate(small(SEGMENTER, digits, tmp_path), str(tmp_path / "iter_2.pth"))
    assert 0 <= metrics["mIoU"] <= 100
    assert json.loads(json.dumps(metrics)) == metrics


def test_dry_run(digits, tmp_path, capsys):
    result = dry_run(small(SEGMENTER, digits, tmp_path))
    assert result["loss"] > 0
    counts = re.search(r"^([\d,]+) parameters in (\d+) groups$", capsys.readouterr().out, flags=re.MULTILINE)
    assert int(counts[1].replace(",", "")) == result["parameters"]
    assert int(counts[2]) > 1  # norms and biases decay otherwise
    assert not list(tmp_path.rglob("*.pth"))


def edit(change):
    """Spoils the annotation file of the training split."""

    def spoil(folder):
        path = folder / "annotations/instances_training.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def other_size(folder):
    Image.new("L", (32, 64)).save(folder / "annotations/training/000001.png")


def beyond_the_classes(folder):
    Image.new("L", (64, 64), 11).save(folder / "annotations/training/000001.png")


def colours(folder):
    Image.new("RGB", (64, 64)).save(folder / "annotations/training/000001.png")


@pytest.mark.parametrize(
    ("config", "spoil", "match"),
    [
        (
            DETECTOR,
            lambda folder: (folder / "images/training/000002.jpg").unlink(),
            "1 are missing, such as 000002.jpg",
        ),
        (DETECTOR, edit(lambda c: c["annotations"][0].update(category_id=77)), "category_id 77 is not among"),
        (DETECTOR, edit(lambda c: c["annotations"][0]["segmentation"].update(size=[8, 8])), "the mask's size is"),
        (DETECTOR, edit(lambda c: c["categories"][3].update(name="drei")), "has no category 3; it has 0, 1, 2, drei"),
        (DETECTOR, lambda folder: (folder / "annotations/instances_training.json").unlink(), "no annotation file at"),
        (SEGMENTER, lambda folder: (folder / "annotations/training/000002.png").unlink(), "000002.png is missing"),
        (SEGMENTER, other_size, r"1 of 4 images can't be used: .*000001.png has \(32, 64\) pixels"),
        (SEGMENTER, beyond_the_classes, "000001.png has class 11, there are 11"),
        (SEGMENTER, colours, "000001.png is no map of 8-bit classes, its mode is RGB"),
    ],
)
def test_bad_data_stops_before_the_run(config, spoil, match, copy, tmp_path):
    spoil(copy)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        train(small(config, copy, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_useless_boxes_are_counted(copy, caplog, monkeypatch):
    edit(lambda content: [entry.update(bbox=[1, 1, 0, 5]) for entry in content["annotations"][:2]])(copy)
    logged = []
    monkeypatch.setattr("visionattn.engine.coco.print_log", lambda text, *args, **options: logged.append(text))
    config = small(DETECTOR, copy, "unused")
    openmmlab.prepare(config)
    openmmlab.check_data(config, ["train_dataloader"])
    assert "2 with an empty box" in logged[0]


@pytest.mark.parametrize("path", [DETECTOR, SEGMENTER])
def test_class_counts_must_agree(path, digits):
    config = small(path, digits, "unused")
    part = "roi_head.bbox_head" if "roi_head" in config.model else "decode_head"
    config.merge_from_dict({f"model.{part}.num_classes": 80})
    openmmlab.prepare(config)
    with pytest.raises(ValueError, match=r"train_dataloader has 1. classes, but model\..* built for num_classes=80"):
        openmmlab.check_data(config, ["train_dataloader"])


def test_sharding_is_refused(digits):
    with pytest.raises(NotImplementedError, match="train as copies on every device"):
        train(small(DETECTOR, digits, "unused"), fsdp=True)


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one(digits, tmp_path):
    options = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", f"data_root={digits}", "param_scheduler=None"]
    tools = CONFIGS.parent / "tools"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parent)}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-4000:]

    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    distributed = ("--launcher", "pytorch", "--cfg-options", *options)
    run(*torchrun, tools / "train.py", SEGMENTER, "--work-dir", tmp_path, *distributed)
    evaluation = (tools / "test.py", SEGMENTER, tmp_path / "iter_2.pth", "--work-dir", tmp_path)
    run(*torchrun, *evaluation, "--out", tmp_path / "two.json", *distributed)
    run(*evaluation, "--out", tmp_path / "one.json", "--cfg-options", *options)
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in ("one", "two"))
    for name in ("mIoU", "aAcc"):
        assert two[name] == pytest.approx(one[name], abs=1e-2)
