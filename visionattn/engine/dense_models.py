"""Detectors and segmenters from configs and checkpoints as plain functions of an image, whatever framework is below."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from visionattn.downstream import sliding_window
from visionattn.downstream.windows import Side
from visionattn.engine import openmmlab
from visionattn.engine.checkpoint import load_weights
from visionattn.engine.detection import to_detections
from visionattn.engine.detections import Detections, detect_in_windows, encode_masks

__all__ = ["DenseModel", "is_dense", "load_dense_model"]


class DenseModel(NamedTuple):
    """A detector or a segmenter.

    Attributes:
        run: From an RGB Pillow image to `Detections`, or to a class map, int64 `[height, width]`; both in its pixels.
        classes: Names.
        category_ids: For detectors, each class's id in COCO's files; None for segmenters.
    """

    run: Callable[[Image.Image], Union[Detections, np.ndarray]]
    classes: Tuple[str, ...]
    category_ids: Optional[Tuple[int, ...]]


def is_dense(config: Config) -> bool:
    """Whether a config is a detector's or a segmenter's."""
    return openmmlab.is_openmmlab(config) or config.model.get("type") in ("Detector", "Segmenter")


def load_dense_model(
    config: Config,
    checkpoint: str,
    device: Union[torch.device, str] = "cpu",
    window: Optional[Side] = None,
    stride: Optional[Side] = None,
    batch_size: int = 1,
) -> DenseModel:
    """Builds a config's detector or segmenter with a checkpoint's weights.

    Args:
        config: Of torchvision's detectors, segmentation-models-pytorch's segmenters, mmdetection or mmsegmentation.
        checkpoint: Weights file.
        device: Where it runs.
        window: Go over images in their own resolution, window by window: height and width, or one number for both. See
            `visionattn.downstream.sliding_window` and `visionattn.engine.detections.detect_in_windows`.
        stride: From a window to the next; two thirds of the window by default.
        batch_size: A segmenter's windows at a time.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the config is of neither kind, or the checkpoint doesn't fit.
    """
    if not is_dense(config):
        raise ValueError(f"the config is of no detector or segmenter, its model's type is {config.model.get('type')!r}")
    if openmmlab.is_openmmlab(config):
        model = openmmlab.build_model(config, checkpoint, str(device))
        classes = tuple(model.dataset_meta["classes"])
        run, logits = OpenMMLabModel(model), OpenMMLabLogits(model)
        detects = config.default_scope == "mmdet"
    else:
        model = MODELS.build(config.model)
        classes = tuple(load_weights(model.net, checkpoint).get("classes") or map(str, range(model.num_classes)))
        model.to(device).eval()
        detects = config.model.type == "Detector"
        run, logits = (TorchvisionDetector(model), None) if detects else (None, SmpLogits(model))
    if detects:
        if window is not None:
            run = functools.partial(detect_in_windows, run, window=window, stride=stride)
        return DenseModel(run, classes, category_ids(classes, annotation_file(config)))
    if window is not None or run is None:
        run = ClassMap(logits, window, stride, batch_size, device)
    return DenseModel(run, classes, None)


class TorchvisionDetector:
    """`visionattn.engine.detection.Detector` on one image."""

    def __init__(self, model: nn.Module):
        self.model = model

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> Detections:
        device = next(self.model.parameters()).device
        return to_detections(self.model([TF.pil_to_tensor(image).to(device)])[0])


class ClassMap:
    """The class map of an image by a segmenter's logits: of the whole at once, or window by window."""

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        window: Optional[Side],
        stride: Optional[Side],
        batch_size: int,
        device: Union[torch.device, str],
    ):
        self.logits, self.window, self.stride = logits, window, stride
        self.batch_size, self.device = batch_size, device

    def __call__(self, image: Image.Image) -> np.ndarray:
        pixels = TF.pil_to_tensor(image)[None].float()
        window = (image.height, image.width) if self.window is None else self.window
        found = sliding_window(
            self.logits,
            pixels,
            window,
            self.stride if self.window is not None else None,
            self.batch_size,
            reduce=lambda logits: logits.argmax(1, keepdim=True).cpu(),
            device=self.device,
            accumulate_on=self.device,
        )
        return found[0, 0].numpy()


class SmpLogits:
    """Logits of `visionattn.engine.segmentation.Segmenter` for RGB images in 0..255, at their size."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, images: Tensor) -> Tensor:
        inputs = self.model.data_preprocessor({"inputs": list(images)})["inputs"]
        return self.model(inputs)[..., : images.shape[2], : images.shape[3]]


class OpenMMLabLogits:
    """Logits of mmsegmentation's segmenters for RGB images in 0..255, at their size."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, images: Tensor) -> Tensor:
        blue_first = list(images.flip(1))  # as OpenCV reads, and the preprocessor expects
        inputs = self.model.data_preprocessor({"inputs": blue_first, "data_samples": None})["inputs"]
        logits = self.model.encode_decode(inputs, [{"img_shape": inputs.shape[2:]}] * len(images))
        return logits[..., : images.shape[2], : images.shape[3]]


class OpenMMLabModel:
    """A model of mmdetection or mmsegmentation on one image, through its config's test pipeline."""

    def __init__(self, model: nn.Module):
        self.model = model
        config = model.cfg
        steps = [step for step in config.test_dataloader.dataset.pipeline if "LoadAnnotations" not in step["type"]]
        self.pipeline = Compose([{"type": f"{config.default_scope}.LoadImageFromNDArray"}, *steps[1:]])

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> Union[Detections, np.ndarray]:
        blue_first = np.ascontiguousarray(np.asarray(image)[..., ::-1])
        # The scale is for pipelines that don't resize.
        data = self.pipeline({"img": blue_first, "img_id": 0, "scale_factor": (1.0, 1.0)})
        (found,) = self.model.test_step({key: [value] for key, value in data.items()})
        if "pred_sem_seg" in found:
            return found.pred_sem_seg.data[0].cpu().numpy()
        instances = found.pred_instances.cpu()
        masks = encode_masks(torch.as_tensor(instances.masks)) if "masks" in instances else None
        return Detections(instances.bboxes, instances.labels, instances.scores, masks)


def annotation_file(config: Config) -> Optional[Path]:
    """The annotations of the config's test images."""
    dataset = config.test_dataloader.dataset
    root = dataset.get("data_root") or dataset.get("root") or ""
    return Path(root, dataset["ann_file"]) if dataset.get("ann_file") else None


def category_ids(classes: Sequence[str], ann_file: Optional[Path] = None) -> Tuple[int, ...]:
    """Ids of classes in COCO's files: the annotation file's if it is there, else COCO's own by name, else from 1."""
    if ann_file is not None and ann_file.is_file():
        known = {entry["name"]: entry["id"] for entry in json.loads(ann_file.read_text())["categories"]}
    else:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        known = {name: i for i, name in enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])}
    if all(name in known for name in classes):
        return tuple(known[name] for name in classes)
    return tuple(range(1, len(classes) + 1))
