"""Training steps of detectors and segmenters on several backbones, side by side."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from visionattn.engine.benchmark import DTYPES, peak_memory, release, time_median
from visionattn.engine.classifier import create_net
from visionattn.engine.devices import device_name, resolve_device

__all__ = ["TASKS", "benchmark_step"]

INSTANCES = 8  # things in a made-up image
# What is measured unless told otherwise: the model, and height, width and images of a batch.
TASKS: Dict[str, Dict[str, Any]] = {
    "detection": {
        "model": {"type": "Detector", "method": "mask_rcnn", "num_classes": 80},
        "size": (800, 1216),
        "batch_size": 2,
        "dilations": "coco",
    },
    "segmentation": {
        "model": {"type": "Segmenter", "method": "UPerNet", "num_classes": 150},
        "size": (512, 512),
        "batch_size": 16,
        "dilations": "ade512",
    },
}


def benchmark_step(
    task: str,
    name: str,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 0,
    size: Sequence[int] = (),
    seconds: float = 2.0,
) -> Dict[str, Any]:
    """Measures a training step: forward, losses, backward, AdamW. Backbones that dilate take the paper's dilations.

    Args:
        task: "detection" (Mask R-CNN of torchvision) or "segmentation" (UPerNet of segmentation-models-pytorch).
        name: Backbone, any that timm knows.
        device: "cpu" or a CUDA device.
        dtype: "float32", or "bfloat16" or "float16" through autocast.
        batch_size: Images per step; 0 for the task's own.
        size: Height and width; empty for the task's own.
        seconds: Time for the median.

    Returns:
        `label, task, model, dilations, img_size, batch_size, device, dtype, params_m` (millions), `step_ms`,
        `images_per_s`, `memory_mib`, and `error` (None or "out of memory").

    Raises:
        ValueError: an unknown task, backbone, device or dtype, or a number out of range.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if batch_size < 0 or seconds <= 0 or any(side < 1 for side in size):
        raise ValueError(f"batch_size, size and seconds must be positive, got {batch_size}, {size} and {seconds}")
    setting = TASKS[task]
    size, batch_size = tuple(size or setting["size"]), batch_size or setting["batch_size"]
    target = resolve_device(device)
    arguments = backbone_arguments(name, size, setting["dilations"])
    extra = {"min_size": min(size), "max_size": max(size)} if task == "detection" else {}
    extra = {**setting["model"].get("model_args", {}), **arguments, **extra}
    model = MODELS.build({**setting["model"], "name": name, "model_args": extra}).to(target).train()
    row = {
        "label": f"{name} ({task})",
        "task": task,
        "model": name,
        "dilations": arguments.get("dilations"),
        "img_size": "x".join(map(str, size)),
        "batch_size": batch_size,
        "device": device_name(target),
        "dtype": dtype,
        "params_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "step_ms": None,
        "images_per_s": None,
        "memory_mib": None,
        "error": None,
    }
    try:
        step = training_step(model, made_up_batch(task, batch_size, size), target, DTYPES[dtype])
        median = time_median(step, target, seconds)
        row["step_ms"], row["images_per_s"] = 1000 * median, batch_size / median
        row["memory_mib"] = peak_memory(step, target)
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"
    del model
    release(target)  # detectors hold themselves in cycles, and their memory would count for the next
    return row


def backbone_arguments(name: str, size: Tuple[int, ...], dilations: str) -> Dict[str, Any]:
    """The image size for backbones that are bound to one, and dilations for those that have them."""
    create_net(name, device="meta")
    arguments: Dict[str, Any] = {}
    for key, value in (("img_size", size), ("dilations", dilations)):
        try:
            create_net(name, device="meta", **{key: value})
        except (TypeError, AssertionError, ValueError):
            continue
        arguments[key] = value
    return arguments


def made_up_batch(task: str, batch_size: int, size: Tuple[int, ...]) -> Dict[str, List[Any]]:
    """Noise with instances or labels, as a data loader gives it."""
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randint(0, 256, (batch_size, 3, *size), generator=generator, dtype=torch.uint8))
    if task == "segmentation":
        labels = torch.randint(0, 150, (batch_size, *size), generator=generator, dtype=torch.uint8)
        return {"inputs": images, "data_samples": [{"labels": label} for label in labels]}
    samples = []
    for _ in images:
        corners = torch.rand(INSTANCES, 2, generator=generator) * 0.6
        shares = torch.cat([corners, corners + 0.05 + 0.3 * torch.rand(INSTANCES, 2, generator=generator)], 1)
        boxes = (shares * torch.tensor([size[1], size[0]] * 2)).round()
        masks = torch.zeros(INSTANCES, *size, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
            mask[top:bottom, left:right] = 1
        labels = torch.randint(1, 81, (INSTANCES,), generator=generator)
        samples.append({"boxes": boxes, "labels": labels, "masks": masks})
    return {"inputs": images, "data_samples": samples}


def training_step(
    model: nn.Module, batch: Dict[str, List[Any]], device: torch.device, dtype: torch.dtype
) -> Callable[[], Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    data = model.data_preprocessor(batch, True)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = sum(model(**data, mode="loss").values())
        loss.backward()
        optimizer.step()
        return loss

    return step
