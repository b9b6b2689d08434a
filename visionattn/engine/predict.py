"""Classifying image files with a trained or released checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.device import get_device
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
from torch import nn

from visionattn.engine.checkpoint import atomic_write, load_weights
from visionattn.engine.classifier import create_net
from visionattn.engine.config import load_config, model_data_config
from visionattn.engine.devices import resolve_device
from visionattn.engine.figures import draw_predictions
from visionattn.engine.images import ImageError, load_image
from visionattn.utils.attention_maps import attention_layers, attention_map

__all__ = ["Predictor", "print_table", "write_results"]


class Predictor:
    """A model with its preprocessing and class names.

    Args:
        model: Config file, or a model name of timm (then its own data config and ImageNet's class names serve).
        checkpoint: Weights.
        options: Overrides of the config, by dotted key.
        device: Such as "cpu" or "cuda:0"; the GPU if there is one.
        num_classes: Of the checkpoint, where a model name is given and it isn't the model's usual number.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: the checkpoint doesn't fit, an unknown model, or a bad config or device.
    """

    def __init__(
        self,
        model: str,
        checkpoint: Union[str, os.PathLike],
        options: Optional[Dict[str, Any]] = None,
        device: Optional[str] = None,
        num_classes: Optional[int] = None,
    ):
        self.device = resolve_device(device or get_device())
        if Path(model).suffix == ".py":
            config = load_config(model, options)
            self.transform = create_transform(**config.test_dataloader.dataset.transform)
            self.net = create_net(
                config.model.name, num_classes=config.model.num_classes, **config.model.get("model_args", {})
            )
        else:
            self.transform = create_transform(**model_data_config(model))
            self.net = create_net(model, **({} if num_classes is None else {"num_classes": num_classes}))
        meta = load_weights(self.net, checkpoint)
        self.classes = class_names(self.net, meta.get("classes"))
        self.net.to(self.device).eval()

    def first_attention_stage(self) -> Optional[int]:
        """0 if the first stage has attention that can be shown, else None."""
        try:
            attention_layers(self.net, 0)
        except ValueError:
            return None
        return 0

    @torch.no_grad()
    def __call__(
        self, paths: Sequence[Path], topk: int = 5, stage: Optional[int] = None, batch_size: int = 32
    ) -> List[Dict[str, Any]]:
        """Classifies image files; one that can't be read doesn't stop the others.

        Args:
            paths: Image files.
            topk: Guesses per image.
            stage: Stage whose attention is wanted, or None.
            batch_size: Images at a time.

        Returns:
            For each path in order, `dict(path, error, image, guesses, attention)`: `error` is None or says why the
            file can't be read; `image` is what the model saw, as a Pillow image; `guesses` are (class, probability)
            pairs; `attention` is an array `[rows, columns]` or None.
        """
        if topk < 1:
            raise ValueError(f"topk must be at least 1, got {topk}")
        results: List[Dict[str, Any]] = []
        for start in range(0, len(paths), batch_size):
            batch = [self._read(path) for path in paths[start : start + batch_size]]
            self._classify([entry for entry in batch if entry["error"] is None], topk, stage)
            results += batch
        return results

    def _read(self, path: Path) -> Dict[str, Any]:
        result = {"path": str(path), "error": None, "image": None, "guesses": [], "attention": None}
        try:
            result["image"] = load_image(path, orient=True)
        except (ImageError, FileNotFoundError) as error:
            result["error"] = str(error)
        return result

    def _classify(self, results: List[Dict[str, Any]], topk: int, stage: Optional[int]) -> None:
        if not results:
            return
        inputs = torch.stack([self.transform(result["image"]) for result in results])
        inputs = inputs.to(self.device)
        probabilities = self.net(inputs).float().softmax(-1).cpu()
        values, indices = probabilities.topk(min(topk, probabilities.shape[1]))
        maps = None if stage is None else attention_map(self.net, inputs, stage).cpu().numpy()
        for i, result in enumerate(results):
            result["guesses"] = [(self.classes[k], p) for k, p in zip(indices[i].tolist(), values[i].tolist())]
            result["attention"] = None if maps is None else maps[i]
            result["image"] = self._seen(inputs[i])

    def _seen(self, image: torch.Tensor) -> Image.Image:
        """The normalised and cropped input as a picture, so that an attention map lies over the right place."""
        normalize = next(step for step in self.transform.transforms if hasattr(step, "std"))
        mean, std = (torch.as_tensor(v).reshape(3, 1, 1).cpu() for v in (normalize.mean, normalize.std))
        pixels = (image.cpu() * std + mean).clamp(0, 1) * 255
        return Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy())


def class_names(net: nn.Module, known: Optional[Sequence[str]]) -> Tuple[str, ...]:
    """Names for a model's outputs: the checkpoint's, ImageNet's where the number fits, else numbers."""
    names = list(known or ())
    subset = None if names else infer_imagenet_subset(net)
    if subset is not None:
        info = ImageNetInfo(subset)
        names = [info.index_to_description(i) for i in range(net.num_classes)]
    return tuple(names + [str(i) for i in range(len(names), net.num_classes)])


def print_table(results: Sequence[Dict[str, Any]]) -> None:
    """Prints a `Predictor`'s results as a table on the terminal."""
    from rich.table import Column, Table

    from visionattn.engine.tables import wide_console

    guesses = max((len(result["guesses"]) for result in results), default=0)
    table = Table(Column("image", overflow="fold"), *(f"top {i + 1}" for i in range(guesses)))
    names = [Path(result["path"]).name for result in results]
    if len(set(names)) < len(names):
        names = [result["path"] for result in results]
    for name, result in zip(names, results):
        if result["error"]:
            table.add_row(name, f"[red]{result['error']}[/red]", *[""] * max(0, guesses - 1))
        else:
            table.add_row(name, *(f"{label} {value:.1%}" for label, value in result["guesses"]))
    wide_console().print(table)


def write_results(results: Sequence[Dict[str, Any]], folder: Path, max_drawn: int = 24) -> None:
    """Writes `predictions.json` (every image) and `predictions.png` (the first `max_drawn` readable ones)."""
    rows = [
        {
            "path": result["path"],
            "error": result["error"],
            "guesses": [{"class": name, "probability": value} for name, value in result["guesses"]],
        }
        for result in results
    ]
    text = json.dumps(rows, indent=2)
    atomic_write(folder / "predictions.json", lambda file: file.write(text.encode()))
    drawn = [{"name": Path(r["path"]).name, **r} for r in results if r["error"] is None][:max_drawn]
    draw_predictions(drawn, folder / "predictions.png")
