"""Segmentation with segmentation-models-pytorch: data sets, segmenters that mmengine's Runner trains, and mean IoU."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

import visionattn  # noqa: F401  registers our models with timm
from visionattn.checkpoint import convert_checkpoint, load_checkpoint_file
from visionattn.downstream.losses import IGNORED, dice_loss
from visionattn.engine.config import model_data_config
from visionattn.engine.images import IMAGE_SUFFIXES, load_image
from visionattn.engine.metrics import TorchMetric
from visionattn.engine.seeding import SampleKey, seed_cpu
from visionattn.engine.transforms import build_transforms

__all__ = ["MeanIoU", "Segmenter", "SegmenterPreprocessor", "SemanticFolder"]

# Those of segmentation-models-pytorch that take pyramids without dilated stages, and train every parameter.
METHODS = ("UPerNet", "FPN", "Unet", "UnetPlusPlus", "MAnet", "Linknet", "PSPNet", "Segformer")
DIVISOR = 32  # of the sizes that their decoders take


@DATASETS.register_module()
class SemanticFolder(Dataset):
    """`root/images/<split>/<name>.jpg` with `root/annotations/<split>/<name>.png`, the layout of ADE20K.

    An item is `dict(inputs=uint8 [3, H, W], data_samples=dict(labels=uint8 [H, W], name=str, padding=bool))`. All label
    maps are read once at the start, in threads.

    Args:
        root: Folder that holds both.
        split: Name of the inner folders: "training" or "validation" in ADE20K.
        classes: Names of the classes.
        transforms: See `build_transforms`; for evaluation there should be none.
        zero_is_ignored: Whether 0 means "other", which doesn't count, and 1 the first class, as in ADE20K; else 0 is
            the first class.

    Raises:
        FileNotFoundError: a folder or the label map of an image is missing.
        ValueError: label maps of another size than their image, or with labels that `classes` has no name for.
    """

    def __init__(
        self,
        root: Union[str, os.PathLike],
        split: str,
        classes: Sequence[str],
        transforms: Sequence[Mapping[str, Any]] = (),
        zero_is_ignored: bool = False,
    ):
        self.transforms = build_transforms(transforms)
        self.classes = tuple(classes)
        self.zero_is_ignored = zero_is_ignored
        images, labels = (Path(root, kind, split) for kind in ("images", "annotations"))
        for folder in (images, labels):
            if not folder.is_dir():
                raise FileNotFoundError(f"no folder {folder}; expected {root}/images/{split} and {root}/annotations")
        paths = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise FileNotFoundError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {images}")
        self.pairs = [(path, labels / f"{path.stem}.png") for path in paths]
        missing = [label.name for _, label in self.pairs if not label.is_file()]
        if missing:
            raise FileNotFoundError(f"{len(missing)} of {len(paths)} images lack a label map in {labels}: {missing[0]}")
        with ThreadPoolExecutor() as pool:
            problems = [problem for problem in pool.map(self._problem, range(len(self.pairs))) if problem]
        if problems:
            raise ValueError(f"{len(problems)} of {len(paths)} label maps in {labels} can't be used: {problems[0]}")

    def _problem(self, index: int) -> Optional[str]:
        path, label = self.pairs[index]
        try:
            values = self._labels(label)
            with Image.open(path) as image:
                size = (image.height, image.width)
        except OSError as error:
            return f"{label.name} or its image can't be read ({error})"
        if values.shape != size:
            return f"{label.name} has the size {values.shape}, its image {size}"
        highest = int(values[values != IGNORED].max(initial=0))
        if highest >= len(self.classes):
            return f"{label.name} has label {highest}, but there are {len(self.classes)} classes"
        return None

    def _labels(self, path: Path) -> np.ndarray:
        with Image.open(path) as image:
            values = np.array(image)
        if values.ndim != 2:
            raise OSError(f"expected one channel, got mode {image.mode}")
        return (values - 1).astype(np.uint8) if self.zero_is_ignored else values  # 0 becomes 255

    @property
    def metainfo(self) -> Dict[str, Any]:
        """What mmengine passes on to metrics and checkpoints."""
        return {"classes": self.classes}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Union[int, SampleKey]) -> Dict[str, Any]:
        if not isinstance(key, SampleKey):
            key = SampleKey(key)
        path, label = self.pairs[key.index]
        image = tv_tensors.Image(TF.pil_to_tensor(load_image(path)))
        labels = tv_tensors.Mask(torch.from_numpy(self._labels(label)))
        if key.seed is not None:
            seed_cpu(key.seed)
        image, labels = self.transforms(image, labels)
        return {
            "inputs": image.as_subclass(Tensor),
            "data_samples": {"labels": labels.as_subclass(Tensor), "name": path.stem, "padding": key.padding},
        }


@MODELS.register_module()
class SegmenterPreprocessor(BaseDataPreprocessor):
    """Normalises images and pads them on the right and at the bottom to one size that decoders take.

    Args:
        mean: Per channel, of images in 0..1.
        std: Likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__(non_blocking=True)
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, data: Mapping[str, Any], training: bool = False) -> Dict[str, Any]:
        data = self.cast_data(dict(data))
        images = [(image.float() / 255 - self.mean) / self.std for image in data["inputs"]]
        extents = [-(-max(image.shape[axis] for image in images) // DIVISOR) * DIVISOR for axis in (-2, -1)]
        return {**data, "inputs": torch.stack([pad_to(image, extents, 0.0) for image in images])}


def pad_to(value: Tensor, extents: Sequence[int], fill: float) -> Tensor:
    """`[..., H, W]` padded on the right and at the bottom."""
    height, width = value.shape[-2:]
    return F.pad(value, (0, extents[1] - width, 0, extents[0] - height), value=fill)


@MODELS.register_module()
class Segmenter(BaseModel):
    """A segmenter of segmentation-models-pytorch as something that mmengine's Runner trains, by cross-entropy.

    Args:
        method: "UPerNet", "FPN", "Unet", "UnetPlusPlus", "MAnet", "Linknet", "PSPNet" or "Segformer".
        name: Backbone: any model of timm with a pyramid of features, ours included.
        num_classes: Classes.
        model_args: Further arguments of the method (`decoder_channels`) and of the backbone (`drop_path_rate`).
        checkpoint: Released weights of the backbone to start from.
        dice: Weight of the Dice loss, for classes that fill few pixels.

    Attributes:
        net: The network; it takes normalised images whose sides are multiples of 32. Its state dict is what checkpoints
            hold.

    Raises:
        ValueError: an unknown method or backbone, or a checkpoint of another model.
    """

    def __init__(
        self,
        method: str,
        name: str,
        num_classes: int,
        model_args: Optional[Mapping[str, Any]] = None,
        checkpoint: Optional[str] = None,
        dice: float = 0.0,
    ):
        import segmentation_models_pytorch  # slow to import, and only segmenters need it

        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        data_config = model_data_config(name)
        super().__init__(data_preprocessor=SegmenterPreprocessor(data_config["mean"], data_config["std"]))
        self.num_classes, self.dice = num_classes, dice
        kind = getattr(segmentation_models_pytorch, method)
        self.net = kind(encoder_name=f"tu-{name}", encoder_weights=None, classes=num_classes, **(model_args or {}))
        if checkpoint is not None:
            body = self.net.encoder.model
            body.load_state_dict(convert_checkpoint(load_checkpoint_file(checkpoint), body), strict=False)

    def init_weights(self) -> None:
        """Nothing: the network initialises itself, and mmengine would overwrite loaded weights."""

    def forward(
        self, inputs: Tensor, data_samples: Optional[Sequence[Dict[str, Any]]] = None, mode: str = "tensor"
    ) -> Union[Tensor, Dict[str, Tensor], List[Dict[str, Any]]]:
        """Runs the segmenter.

        Args:
            inputs: Images `[batch, 3, H, W]` from the preprocessor.
            data_samples: Targets as of `SemanticFolder`.
            mode: "tensor" gives logits, "loss" the loss, "predict" class maps with the targets, cut to the images.

        Returns:
            Logits `[batch, num_classes, H, W]`; or losses by name; or for each image `dict(prediction=int64 [h, w],
            labels=[h, w], name, padding)`.
        """
        logits = self.net(inputs).float()
        if mode == "tensor":
            return logits
        if mode == "loss":
            labels = [pad_to(sample["labels"], inputs.shape[-2:], IGNORED) for sample in data_samples]
            labels = torch.stack(labels).long()
            losses = {"loss_pixels": F.cross_entropy(logits, labels, ignore_index=IGNORED)}
            return {**losses, "loss_dice": self.dice * dice_loss(logits, labels)} if self.dice else losses
        if mode == "predict":
            maps = logits.argmax(1)
            sizes = [sample["labels"].shape for sample in data_samples]
            cut = [{"prediction": found[:height, :width]} for found, (height, width) in zip(maps, sizes)]
            return [{**found, **sample} for found, sample in zip(cut, data_samples)]
        raise ValueError(f"mode must be tensor, loss or predict, got {mode!r}")


@METRICS.register_module()
class MeanIoU(TorchMetric):
    """`miou`, `class_accuracy` (mean over the classes) and `pixel_accuracy` in percent, from one confusion matrix.

    Classes that neither the labels nor the predictions have don't count.
    """

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        for sample in data_samples:
            prediction = sample["prediction"]
            if not self.metrics:
                count = len(self.dataset_meta["classes"])
                matrix = MulticlassConfusionMatrix(num_classes=count, ignore_index=IGNORED)
                self.metrics = {"matrix": matrix.to(prediction.device)}
            labels = sample["labels"].long().to(prediction.device)
            # a padding sample makes the metric exist on a rank that has nothing else, or the others would wait
            labels = torch.full_like(labels, IGNORED) if sample["padding"] else labels
            self.metrics["matrix"].update(prediction, labels)

    def compute_metrics(self, values: Dict[str, Tensor]) -> Dict[str, float]:
        matrix = values["matrix"].double()
        hits, labels, found = matrix.diag(), matrix.sum(1), matrix.sum(0)
        union = labels + found - hits
        return {
            "miou": float(100 * (hits / union)[union > 0].mean()),
            "class_accuracy": float(100 * (hits / labels)[labels > 0].mean()),
            "pixel_accuracy": float(100 * hits.sum() / labels.sum()),
        }
