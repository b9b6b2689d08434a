"""A detection and a segmentation run that take seconds, for the tests of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from tests.engine.helpers import CONFIGS
from visionattn.engine import load_config
from visionattn.engine.detection import Detector
from visionattn.engine.digit_scenes import DigitScenes, write_digit_scenes
from visionattn.engine.segmentation import Segmenter

TASKS = {
    "detection": "detection/digits/mask_rcnn_dinat_test_torchvision.py",
    "segmentation": "segmentation/digits/upernet_ravlt_test_smp.py",
}
NARROW: Dict[str, Dict[str, Any]] = {
    "detection": {
        "fpn_channels": 16,
        "box_channels": 16,
        "mask_channels": (8,),
        "box_batch_size_per_image": 8,
        "box_detections_per_img": 5,
        "min_size": 64,
        "max_size": 64,
    },
    "segmentation": {"decoder_channels": 16},
}


def make_scenes(folder: Path, training: int = 4, validation: int = 3) -> Path:
    """Scenes of 64 pixels."""
    scenes = DigitScenes(size=64, digits=(1, 2), scale=(0.3, 0.5))
    for _ in write_digit_scenes(folder, scenes, {"training": training, "validation": validation}):
        pass
    return folder


def dense_config(task: str, data: Path, work_dir: Path, **overrides: Any) -> Config:
    """A resolved config of 2 epochs with 2 iterations each; dotted overrides use `__` for the dot."""
    options = {
        "data_root": str(data),
        "model.model_args": NARROW[task],
        "train_dataloader.batch_size": 2,
        "val_dataloader.batch_size": 2,
        "param_scheduler": [],
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 1,
        "default_hooks.logger.interval": 1,
        "visualizer": None,
        "log_level": "WARNING",
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return load_config(str(CONFIGS / TASKS[task]), options, str(work_dir))


@MODELS.register_module(force=True)
class NearlyRightDetector(Detector):
    """A detector that is trained as any, but finds the true instances, a little aside and not all of them."""

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        results = super().forward(inputs, data_samples, mode)
        if mode != "predict":
            return results
        found = []
        for result, target in zip(results, data_samples):
            count = len(target["boxes"]) - target["image_id"] % 2
            boxes = target["boxes"][:count] + torch.tensor([0.0, 2.0, 3.0, 0.0])
            masks = target["masks"][:count, None].float().roll(1, -1)
            scores = 1 / (1 + target["image_id"] + torch.arange(count))
            found.append(
                {**result, "boxes": boxes, "masks": masks, "labels": target["labels"][:count], "scores": scores}
            )
        return found


@MODELS.register_module(force=True)
class NearlyRightSegmenter(Segmenter):
    """A segmenter that is trained as any, but finds the true classes, two pixels aside."""

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        results = super().forward(inputs, data_samples, mode)
        if mode != "predict":
            return results
        return [{**result, "prediction": result["labels"].long().roll(2, -1)} for result in results]
