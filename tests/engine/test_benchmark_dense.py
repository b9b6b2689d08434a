"""Training steps of detectors and segmenters, measured; with narrow heads, as a CPU runs them."""

import pytest

from visionattn.engine.benchmark_dense import TASKS, backbone_arguments, benchmark_step

SMALL = {
    "detection": {"fpn_channels": 16, "box_channels": 16, "mask_channels": (8,), "box_batch_size_per_image": 8},
    "segmentation": {"decoder_channels": 16},
}


@pytest.mark.parametrize("task", TASKS)
def test_rows(task, monkeypatch):
    model = {**TASKS[task]["model"], "model_args": SMALL[task]}
    monkeypatch.setitem(TASKS, task, {**TASKS[task], "model": model})
    row = benchmark_step(task, "van_test", batch_size=2, size=(64, 96), seconds=0.001)
    assert row["error"] is None
    assert row["img_size"] == "64x96"
    assert row["images_per_s"] == pytest.approx(2000 / row["step_ms"])
    assert 0 < row["params_m"] < 2


def test_backbones_get_what_they_take():
    assert backbone_arguments("dinat_tiny", (800, 1216), "coco") == {"dilations": "coco"}
    assert backbone_arguments("swin_tiny_patch4_window7_224", (64, 96), "coco") == {"img_size": (64, 96)}
    assert backbone_arguments("van_test", (64, 96), "coco") == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "pose"}, "task must be one of detection, segmentation"),
        ({"dtype": "float64"}, "dtype must be one of"),
        ({"seconds": 0}, "must be positive"),
        ({"name": "vgg99"}, "no model 'vgg99'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        benchmark_step(**{"task": "segmentation", "name": "van_test", **options})
