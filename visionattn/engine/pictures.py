"""Pictures of what a detector or segmenter predicts for some validation images, drawn when training ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from visionattn.engine.checkpoint import atomic_write
from visionattn.engine.detection import to_detections
from visionattn.engine.detections import Detections
from visionattn.engine.drawing import draw_class_map, draw_detections

__all__ = ["PredictionPictures"]


@HOOKS.register_module()
class PredictionPictures(Hook):
    """Writes `predictions/<number>.png` in the work folder at the end: the last validation's first images.

    Args:
        count: Pictures.
        threshold: Least score of the detections that are drawn.

    Raises:
        ValueError: a count below 1 or a threshold outside of [0, 1].
    """

    priority = "LOW"

    def __init__(self, count: int = 8, threshold: float = 0.5):
        if count < 1 or not 0 <= threshold <= 1:
            raise ValueError(f"count must be at least 1 and threshold in [0, 1], got {count} and {threshold}")
        self.count, self.threshold = count, threshold
        self.kept: List[Tuple[Image.Image, Union[Detections, torch.Tensor]]] = []

    def before_val_epoch(self, runner) -> None:
        self.kept = []

    def after_val_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Dict[str, Any]]] = None
    ) -> None:
        if is_main_process():
            for image, found in list(zip(data_batch["inputs"], outputs))[: self.count - len(self.kept)]:
                result = to_detections(found) if "boxes" in found else found["prediction"].cpu()
                self.kept.append((TF.to_pil_image(image), result))

    def after_train(self, runner) -> None:
        for number, (image, result) in enumerate(self.kept):
            classes = runner.val_dataloader.dataset.metainfo["classes"]
            if isinstance(result, Detections):
                picture = draw_detections(image, result.above(self.threshold), classes)
            else:
                picture = draw_class_map(image, result.numpy(), classes)
            path = Path(runner.work_dir, "predictions", f"{number:02d}.png")
            atomic_write(path, lambda file, picture=picture: picture.save(file, format="png"))
