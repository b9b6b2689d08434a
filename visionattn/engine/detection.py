"""Detection with torchvision: COCO data sets, detectors that mmengine's Runner trains, and average precision."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import DATASETS, FUNCTIONS, METRICS, MODELS
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

import visionattn  # noqa: F401  registers our models with timm
from visionattn.checkpoint import load_checkpoint_file
from visionattn.downstream import torchvision as detectors
from visionattn.engine.coco import Annotations, check_annotations, to_rle
from visionattn.engine.detections import Detections, coco_entries, encode_masks
from visionattn.engine.images import load_image
from visionattn.engine.seeding import SampleKey, seed_cpu
from visionattn.engine.transforms import build_transforms

__all__ = ["CocoAP", "CocoInstances", "Detector", "list_collate", "to_detections"]

MASK_THRESHOLD = 0.5  # least probability of a mask's pixels
METHODS = ("mask_rcnn", "faster_rcnn", "retinanet", "fcos")


@FUNCTIONS.register_module()
def list_collate(batch: Sequence[Mapping[str, Any]]) -> Dict[str, List[Any]]:
    """A batch of images of any sizes: a list of values for each key of the items."""
    return {key: [item[key] for item in batch] for key in batch[0]}


@DATASETS.register_module()
class CocoInstances(Dataset):
    """Images with instances from a COCO annotation file, which is checked at the start.

    An item is `dict(inputs=uint8 [3, H, W], data_samples=dict(boxes=float [N, 4] (x0, y0, x1, y1), labels=int64 [N]
    from 1, masks=uint8 [N, H, W] if wanted, image_id=int, padding=bool))`. Crowds are not among the instances.

    Args:
        root: Folder that the other paths start from.
        ann_file: Annotations, such as "annotations/instances_train2017.json".
        image_dir: Folder of the images, such as "train2017".
        transforms: See `build_transforms`; those for evaluation must leave the geometry alone, detectors resize.
        masks: Whether to read the masks.
        skip_empty: Leave out images without instances.
        classes: Names that the file must have for its categories.

    Raises:
        FileNotFoundError, AnnotationError: as `visionattn.engine.coco.check_annotations`.
        ValueError: no image has an instance, with `skip_empty`.
    """

    def __init__(
        self,
        root: Union[str, os.PathLike],
        ann_file: str,
        image_dir: str,
        transforms: Sequence[Mapping[str, Any]] = (),
        masks: bool = True,
        skip_empty: bool = False,
        classes: Optional[Sequence[str]] = None,
    ):
        self.transforms = build_transforms(transforms)
        self.masks = masks
        self.image_dir = Path(root, image_dir)
        self.annotations: Annotations = check_annotations(Path(root, ann_file), self.image_dir, masks, classes)
        self.label_of = {category: i + 1 for i, category in enumerate(self.annotations.category_ids)}
        self.images = [entry for entry in self.annotations.images if not skip_empty or self._instances(entry["id"])]
        if not self.images:
            raise ValueError(f"no image of {Path(root, ann_file)} has an instance")

    @property
    def metainfo(self) -> Dict[str, Any]:
        """What mmengine passes on to metrics and checkpoints."""
        return {"classes": self.annotations.classes, "annotations": self.annotations}

    def _instances(self, image_id: int) -> List[Dict[str, Any]]:
        return [entry for entry in self.annotations.instances[image_id] if not entry.get("iscrowd")]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Union[int, SampleKey]) -> Dict[str, Any]:
        if not isinstance(key, SampleKey):
            key = SampleKey(key)
        entry = self.images[key.index]
        image = tv_tensors.Image(TF.pil_to_tensor(load_image(self.image_dir / entry["file_name"])))
        target = self._target(entry["id"], tuple(image.shape[-2:]))
        if key.seed is not None:
            seed_cpu(key.seed)
        image, target = self.transforms(image, target)
        return {
            "inputs": image.as_subclass(Tensor),
            "data_samples": {**usable(target), "image_id": entry["id"], "padding": key.padding},
        }

    def _target(self, image_id: int, size: Any) -> Dict[str, Tensor]:
        instances = self._instances(image_id)
        boxes = torch.tensor([entry["bbox"] for entry in instances], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=size),
            "labels": torch.tensor([self.label_of[entry["category_id"]] for entry in instances], dtype=torch.int64),
        }
        target["boxes"] = TF.convert_bounding_box_format(target["boxes"], new_format="XYXY")
        if self.masks:
            from pycocotools import mask as coding

            masks = [coding.decode(to_rle(entry["segmentation"], size)) for entry in instances]
            stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=np.uint8)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(stacked))
        return target


def usable(target: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Boxes cut to the picture, as plain tensors, without instances of which a transform has left nothing."""
    boxes = TF.clamp_bounding_boxes(target["boxes"]).as_subclass(Tensor)
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    if "masks" in target:
        keep &= (target["masks"] > 0).flatten(1).any(1)
    return {name: value.as_subclass(Tensor)[keep] for name, value in {**target, "boxes": boxes}.items()}


@MODELS.register_module()
class Detector(BaseModel):
    """A detector of `visionattn.downstream.torchvision` as something that mmengine's Runner trains.

    Args:
        method: "mask_rcnn", "faster_rcnn", "retinanet" or "fcos".
        name: Backbone: any model of timm, ours included.
        num_classes: Classes of the data set, so without the background.
        model_args: Further arguments of the method and of the backbone.
        checkpoint: Released weights of the backbone to start from.

    Attributes:
        net: torchvision's detector; its state dict is what checkpoints hold.

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
    ):
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        self.num_classes = num_classes
        self.net = getattr(detectors, method)(name, num_classes=num_classes + 1, **(model_args or {}))
        if checkpoint is not None:
            self.net.backbone.pyramid.load_released(load_checkpoint_file(checkpoint))

    def init_weights(self) -> None:
        """Nothing: the network initialises itself, and mmengine would overwrite loaded weights."""

    def forward(
        self, inputs: Sequence[Tensor], data_samples: Optional[Sequence[Dict[str, Any]]] = None, mode: str = "tensor"
    ) -> Union[List[Dict[str, Any]], Dict[str, Tensor]]:
        """Runs the detector.

        Args:
            inputs: Images, uint8 `[3, H, W]` each.
            data_samples: Targets as of `CocoInstances`.
            mode: "loss" gives losses (the network must be in training mode); "tensor" gives detections, "predict"
                detections with the targets' `image_id` and `padding` (the network must be in evaluation mode).

        Returns:
            Losses by name; or for each image `dict(boxes=[N, 4], labels=[N], scores=[N], masks=[N, 1, H, W] of
            probabilities)`, in the pixels of the input.
        """
        images = [image.float() / 255 for image in inputs]
        if mode == "loss":
            losses = self.net(images, list(data_samples))
            return {f"loss_{name.removeprefix('loss_')}": value for name, value in losses.items()}
        if mode == "tensor":
            return self.net(images)
        if mode == "predict":
            keys = ("image_id", "padding")
            return [{**found, **{k: t[k] for k in keys}} for found, t in zip(self.net(images), data_samples)]
        raise ValueError(f"mode must be tensor, loss or predict, got {mode!r}")


@METRICS.register_module()
class CocoAP(BaseMetric):
    """COCO's average precision in percent: `bbox_map50, bbox_map, bbox_map75, bbox_map_small, ..._medium, ..._large`.

    Sizes of which there are no objects are left out.

    The detections of all ranks come together as run lengths and are evaluated once, so several processes give what one
    gives.

    Args:
        iou_types: "bbox", and "segm" for masks.

    Raises:
        ValueError: an unknown type.
    """

    default_prefix = ""  # None makes mmengine complain
    NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large")

    def __init__(self, iou_types: Sequence[str] = ("bbox", "segm")):
        super().__init__(collect_device="gpu")  # through the process group, gloo too; "cpu" means through files
        if not iou_types or not set(iou_types) <= {"bbox", "segm"}:
            raise ValueError(f"iou_types must be bbox, segm or both, got {iou_types}")
        self.iou_types = tuple(iou_types)

    def process(self, data_batch: Any, data_samples: Sequence[Dict[str, Any]]) -> None:
        category_ids = self.dataset_meta["annotations"].category_ids
        # padding samples are the last, and are cut off when the ranks' results come together
        for found in data_samples:
            image_id = found["image_id"]
            self.results.append((image_id, coco_entries(to_detections(found), image_id, category_ids)))

    def compute_metrics(self, results: List[Any]) -> Dict[str, float]:
        annotations: Annotations = self.dataset_meta["annotations"]
        image_ids = [image_id for image_id, _ in results]
        detections = [entry for _, entries in results for entry in entries]
        values: Dict[str, float] = {}
        for kind in self.iou_types:
            scores = average_precision(annotations, detections, image_ids, kind)
            values.update({f"{kind}_{name}": 100 * score for name, score in zip(self.NAMES, scores) if score >= 0})
        first = f"{self.iou_types[0]}_map50"
        return {first: values[first], **values}


def to_detections(found: Mapping[str, Any]) -> Detections:
    """One image's results of torchvision's, labels from 1, as detections on the CPU, labels from 0."""
    masks = encode_masks(found["masks"][:, 0] > MASK_THRESHOLD) if "masks" in found else None
    return Detections(found["boxes"].cpu(), found["labels"].cpu() - 1, found["scores"].cpu(), masks)


def average_precision(
    annotations: Annotations, detections: List[Dict[str, Any]], image_ids: Sequence[int], kind: str
) -> List[float]:
    """pycocotools' six precisions (AP, AP50, AP75, small, medium, large), 0 to 1; -1 where there is nothing to find."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "images": annotations.images,
        "categories": [{"id": i, "name": name} for i, name in zip(annotations.category_ids, annotations.classes)],
        "annotations": [
            {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry, "id": number}
            for number, entry in enumerate((e for image in image_ids for e in annotations.instances[image]), start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its progress
        truth.createIndex()
        if not detections:
            return [0.0] * len(CocoAP.NAMES)
        other = "bbox" if kind == "segm" else "segmentation"  # from which loadRes would take the areas
        found = [{key: value for key, value in entry.items() if key != other} for entry in detections]
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[: len(CocoAP.NAMES)]]
