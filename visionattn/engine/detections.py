"""What a detector finds in an image: cut to a threshold, found window by window, written in COCO's format."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from visionattn.downstream.windows import Side, as_sides, window_starts

__all__ = ["Detections", "coco_entries", "detect_in_windows", "encode_masks"]

SAME = 0.5  # intersection over union of two windows' finds of one thing
WITHIN = 0.7  # share of a cut find's box that lies in another's


class Detections(NamedTuple):
    """What was found in one image, the surest first.

    Attributes:
        boxes: `[N, 4]` float, left, top, right and bottom in pixels.
        labels: `[N]` int, indices of classes from 0.
        scores: `[N]` float, 0 to 1.
        masks: For each a mask of the image's size in COCO's run lengths (`dict(size, counts)`); None if there are none.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Optional[List[Dict[str, Any]]] = None

    def take(self, indices: Tensor) -> Detections:
        """Those at some positions."""
        masks = None if self.masks is None else [self.masks[i] for i in indices.tolist()]
        return Detections(self.boxes[indices], self.labels[indices], self.scores[indices], masks)

    def above(self, threshold: float) -> Detections:
        """Those with at least a score."""
        return self.take((self.scores >= threshold).nonzero()[:, 0])


def encode_masks(masks: Tensor) -> List[Dict[str, Any]]:
    """`[N, height, width]` bool to COCO's run lengths, as JSON takes them."""
    from pycocotools import mask as coding

    found = []
    for mask in masks:  # one by one, as a large image's fill the memory
        code = coding.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
        found.append({"size": list(code["size"]), "counts": code["counts"].decode()})
    return found


def coco_entries(found: Detections, image_id: int, category_ids: Sequence[int]) -> List[Dict[str, Any]]:
    """Detections as entries of a results file: `category_ids` has an id for each class."""
    corners = found.boxes.double()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    entries = []
    for i, (box, label, score) in enumerate(zip(boxes.tolist(), found.labels.tolist(), found.scores.tolist())):
        entry = {"image_id": image_id, "category_id": category_ids[label], "bbox": [round(v, 2) for v in box]}
        entry["score"] = round(score, 5)
        if found.masks is not None:
            entry["segmentation"] = found.masks[i]
        entries.append(entry)
    return entries


def detect_in_windows(
    find: Callable[[Image.Image], Detections], image: Image.Image, window: Side, stride: Optional[Side] = None
) -> Detections:
    """Detections in a large image, window by window.

    Of one thing that several windows see, the surest find stays; finds that a window's edge cuts come after whole ones,
    and go where they lie in another of their class. Windows should overlap by the largest thing's size.

    Args:
        find: A detector.
        image: RGB.
        window: Height and width of a window, or one number for both.
        stride: From a window to the next; two thirds of the window by default.

    Raises:
        TypeError, ValueError: `window` or `stride` are no sizes, or leave gaps.
    """
    window = as_sides("window", window)
    steps = as_sides("stride", tuple(max(1, s * 2 // 3) for s in window) if stride is None else stride, window)
    size = (image.height, image.width)
    finds, cuts, offsets = [], [], []
    for top in window_starts(size[0], window[0], steps[0]):
        for left in window_starts(size[1], window[1], steps[1]):
            edges = (left, top, min(left + window[1], size[1]), min(top + window[0], size[0]))
            found = find(image.crop(edges))
            moved = found._replace(boxes=found.boxes + found.boxes.new_tensor([left, top, left, top]))
            finds.append(moved)
            cuts.append(is_cut(moved.boxes, edges, size))
            offsets += [(left, top)] * len(found.boxes)
    boxes, labels, scores = (torch.cat([found[i] for found in finds]) for i in range(3))
    cut = torch.cat(cuts)
    rank = scores.double() + (~cut).double()
    keep = batched_nms(boxes.double(), rank, labels, SAME)
    keep = torch.tensor(
        [i for n, i in enumerate(keep.tolist()) if not (cut[i] and lies_within(boxes, labels, i, keep[:n]))],
        dtype=torch.int64,
    )
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    masks = None
    if finds[0].masks is not None:
        codes = [mask for found in finds for mask in found.masks]
        masks = [paste(codes[i], offsets[i], size) for i in keep.tolist()]
    return Detections(boxes[keep], labels[keep], scores[keep], masks)


def is_cut(boxes: Tensor, edges: Sequence[int], size: Sequence[int], slack: float = 2.0) -> Tensor:
    """Which boxes reach an edge (left, top, right, bottom) of their window that is not the image's."""
    left, top, right, bottom = edges
    inner = [left > 0, top > 0, right < size[1], bottom < size[0]]
    distance = (boxes - boxes.new_tensor(list(edges))).abs()
    return ((distance <= slack) & torch.tensor(inner)).any(1)


def lies_within(boxes: Tensor, labels: Tensor, index: int, others: Tensor) -> bool:
    """Whether most of a box lies in another one of its class."""
    others = others[labels[others] == labels[index]]
    if not len(others):
        return False
    corners = boxes[others]
    overlap = torch.minimum(corners[:, 2:], boxes[index, 2:]) - torch.maximum(corners[:, :2], boxes[index, :2])
    area = (boxes[index, 2:] - boxes[index, :2]).prod().clamp_min(1e-6)
    return bool((overlap.clamp_min(0).prod(1) / area).max() > WITHIN)


def paste(mask: Dict[str, Any], offset: Sequence[int], size: Sequence[int]) -> Dict[str, Any]:
    """A window's mask as one of the image."""
    from pycocotools import mask as coding

    inner = coding.decode(mask)
    whole = np.zeros(size, dtype=np.uint8, order="F")
    left, top = offset
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return encode_masks(torch.from_numpy(whole)[None])[0]
