"""COCO annotation files: checked as a whole before training, so that nothing in them can stop it an hour later."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from mmengine.logging import print_log
from PIL import Image

__all__ = ["AnnotationError", "Annotations", "check_annotations"]


BEYOND = 0.1  # share of an image's side by which careless polygons may leave it; more means another image


class AnnotationError(ValueError):
    """An annotation file that can't be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Annotations:
    """What a COCO file says, without what had to be left out.

    Attributes:
        images: The `images` entries, in the file's order.
        instances: The usable `annotations` entries by image id; images without any have an empty list.
        classes: Category names in the order of their ids.
        category_ids: The ids.
        skipped: Reasons for leaving annotations out, with their numbers.
    """

    images: List[Dict[str, Any]]
    instances: Dict[int, List[Dict[str, Any]]]
    classes: Tuple[str, ...]
    category_ids: Tuple[int, ...]
    skipped: Dict[str, int]


def check_annotations(
    ann_file: Union[str, os.PathLike],
    image_dir: Union[str, os.PathLike],
    masks: bool = True,
    classes: Optional[Sequence[str]] = None,
) -> Annotations:
    """Reads a COCO instance file and checks everything that could go wrong with it.

    Annotations that no detector could learn from (boxes without area or wholly outside of the image, masks without a
    pixel) are left out; a warning in the log tells how many.

    Args:
        ann_file: JSON file.
        image_dir: Folder that its file names are relative to.
        masks: Whether the masks are needed, and checked.
        classes: Names that the file must have for its categories, in the order of their ids; None takes any.

    Raises:
        FileNotFoundError: no such file or folder.
        AnnotationError: malformed JSON or entries, missing images or images of another size than the file says,
            categories or images that the file doesn't declare, other classes, masks of another size than their image.
    """
    ann_file, image_dir = Path(ann_file), Path(image_dir)
    if not ann_file.is_file():
        raise FileNotFoundError(f"no annotation file at {ann_file}")
    if not image_dir.is_dir():
        raise FileNotFoundError(f"no image folder at {image_dir}")
    content = _read(ann_file)
    try:
        images = {entry["id"]: entry for entry in content["images"]}
        categories = {entry["id"]: entry["name"] for entry in content["categories"]}
        sizes = {key: (int(entry["height"]), int(entry["width"])) for key, entry in images.items()}
        names = {key: entry["file_name"] for key, entry in images.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(f"{ann_file}: an image or a category has no proper {error}") from error
    if len(images) < len(content["images"]) or len(categories) < len(content["categories"]):
        raise AnnotationError(f"{ann_file}: two images or two categories have the same id")
    ids = tuple(sorted(categories))
    found = tuple(categories[key] for key in ids)
    if classes is not None and found != tuple(classes):
        raise AnnotationError(f"{ann_file} has the classes {_some(found)}, expected {_some(classes)}")
    _check_files(ann_file, image_dir, names, sizes)
    instances: Dict[int, List[Dict[str, Any]]] = {key: [] for key in images}
    skipped: Counter = Counter()
    for position, entry in enumerate(content["annotations"]):
        where = f"{ann_file}, annotations[{position}]"
        if not isinstance(entry, dict):
            raise AnnotationError(f"{where} is no object")
        if entry.get("image_id") not in images:
            raise AnnotationError(f"{where}: image_id {entry.get('image_id')!r} is not among the images")
        if entry.get("category_id") not in categories:
            raise AnnotationError(
                f"{where}: category_id {entry.get('category_id')!r} is not among the categories {_some(ids)}"
            )
        size = sizes[entry["image_id"]]
        reason = _why_skip_box(where, entry, size) or (_why_skip_mask(where, entry, size) if masks else None)
        if reason:
            skipped[reason] += 1
        else:
            instances[entry["image_id"]].append(entry)
    if skipped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in skipped.items())
        print_log(
            f"{ann_file}: {sum(skipped.values())} of {len(content['annotations'])} annotations left out: {reasons}",
            "current",
            30,
        )
    return Annotations(content["images"], instances, found, ids, dict(skipped))


def _read(ann_file: Path) -> Dict[str, List[Dict[str, Any]]]:
    try:
        content = json.loads(ann_file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{ann_file} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{ann_file} holds a {type(content).__name__}, expected an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise AnnotationError(f"{ann_file} has no list of {key}")
    if not content["images"] or not content["categories"]:
        raise AnnotationError(f"{ann_file} declares no images or no categories")
    return content


def _check_files(
    ann_file: Path, image_dir: Path, names: Mapping[int, str], sizes: Mapping[int, Tuple[int, int]]
) -> None:
    """Every image is there, and as large as the file says; only the headers are read."""

    def problem(key: int) -> Optional[Tuple[str, str]]:
        try:
            with Image.open(image_dir / names[key]) as image:
                size = (image.height, image.width)
        except FileNotFoundError:
            return "are missing", names[key]
        except OSError as error:
            return "can't be read", f"{names[key]} ({error})"
        expected = sizes[key]
        if size == expected:
            return None
        return "have another size", f"{names[key]} ({size[0]}x{size[1]}, the file says {expected[0]}x{expected[1]})"

    with ThreadPoolExecutor() as pool:
        problems = [found for found in pool.map(problem, names) if found is not None]
    if problems:
        kinds = Counter(kind for kind, _ in problems)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        shown = "; ".join(name for _, name in problems[:3])
        raise AnnotationError(f"{ann_file}: of its {len(names)} images in {image_dir} {counts}, such as {shown}")


def _why_skip_box(where: str, entry: Mapping[str, Any], size: Tuple[int, int]) -> Optional[str]:
    box = entry.get("bbox")
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{where}: bbox must be [x, y, width, height], got {box!r}") from error
    if not all(map(math.isfinite, (x, y, width, height))):
        raise AnnotationError(f"{where}: bbox must be finite, got {box!r}")
    if width <= 0 or height <= 0:
        return "an empty box"
    if min(x + width, size[1]) - max(x, 0) <= 0 or min(y + height, size[0]) - max(y, 0) <= 0:
        return "a box outside of the image"
    return None


def _why_skip_mask(where: str, entry: Mapping[str, Any], size: Tuple[int, int]) -> Optional[str]:
    mask = entry.get("segmentation")
    if isinstance(mask, dict):
        return _why_skip_run_lengths(where, mask, size)
    if not isinstance(mask, list):
        raise AnnotationError(f"{where}: segmentation must be polygons or run lengths, got {type(mask).__name__}")
    for polygon in mask:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(isinstance(v, (int, float)) for v in polygon):
            raise AnnotationError(f"{where}: a polygon must be a list [x0, y0, x1, y1, ...]")
        for axis, extent in enumerate((size[1], size[0])):
            if (
                polygon
                and not -BEYOND * extent <= min(polygon[axis::2]) <= max(polygon[axis::2]) <= (1 + BEYOND) * extent
            ):
                raise AnnotationError(
                    f"{where}: a polygon reaches far beyond its image of {size[0]} rows and {size[1]} columns"
                )
    return None if any(len(polygon) >= 6 for polygon in mask) else "an empty mask"


def _why_skip_run_lengths(where: str, mask: Mapping[str, Any], size: Tuple[int, int]) -> Optional[str]:
    if list(mask.get("size", ())) != list(size):
        raise AnnotationError(
            f"{where}: the mask's size is {mask.get('size')}, but its image has {size[0]} rows and {size[1]} columns"
        )
    counts = mask.get("counts")
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
            raise AnnotationError(f"{where}: the mask's run lengths don't add up to {size[0]}x{size[1]} pixels")
        return None if sum(counts[1::2]) else "an empty mask"
    if not isinstance(counts, str) or not counts:
        raise AnnotationError(f"{where}: segmentation.counts must be a list or text, got {counts!r}")
    from pycocotools import mask as coding

    try:
        return None if coding.decode(dict(mask)).any() else "an empty mask"  # coding.area believes any text
    except ValueError as error:
        raise AnnotationError(f"{where}: the mask's run lengths are damaged") from error


def to_rle(segmentation: Any, size: Tuple[int, int]) -> Dict[str, Any]:
    """Run lengths as pycocotools wants them, of polygons or of run lengths in either of COCO's spellings."""
    from pycocotools import mask as coding

    if isinstance(segmentation, dict):
        compressed = not isinstance(segmentation["counts"], list)
        return segmentation if compressed else coding.frPyObjects(segmentation, *size)
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than three corners enclose nothing
    return coding.merge(coding.frPyObjects(polygons, *size))


def _some(values: Sequence[Any], most: int = 5) -> str:
    shown = ", ".join(map(str, list(values)[:most]))
    return f"{shown}, ... ({len(values)} in all)" if len(values) > most else shown
