"""A small data set with real pictures and no download: handwritten digits on photographs, as instances and as classes.

The digits are scikit-learn's scans, enlarged, coloured and turned a little; the photographs are those that scikit-image
and scikit-learn carry in their packages. Digits of the training split never occur in the validation split.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple, Union

import numpy as np
from PIL import Image, ImageFilter

from visionattn.engine.data import Digits
from visionattn.engine.images import load_image

__all__ = ["CLASSES", "SPLITS", "DigitScenes", "write_digit_scenes"]

SPLITS = {"training": "train", "validation": "val"}  # folder name to the split of the digits
CLASSES = Digits.classes
PHOTOGRAPHS = {
    "skimage/data": (
        "astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "ihc.png",
        "motorcycle_left.png", "retina.jpg", "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}  # fmt: skip
MARGIN = 2  # pixels of a scan's surroundings, so that a turned digit keeps its corners
TRIES = 30  # places and colours that are tried for one digit


@dataclass(frozen=True)
class DigitScenes:
    """Scenes of handwritten digits on photographs, each a pure function of (seed, split, number).

    Args:
        size: Height and width of a scene in pixels.
        digits: Least and greatest number of digits in a scene.
        scale: Least and greatest height of a digit as a share of `size`.
        seed: Of everything random.

    Raises:
        ValueError: a size below 64, or ranges that are empty or impossible.
    """

    size: int = 160
    digits: Tuple[int, int] = (2, 5)
    scale: Tuple[float, float] = (0.3, 0.55)
    seed: int = 0

    def __post_init__(self):
        if self.size < 64:
            raise ValueError(f"size must be at least 64, got {self.size}")
        if not 1 <= self.digits[0] <= self.digits[1] <= 100:
            raise ValueError(f"digits must be two numbers of 1 to 100 in order, got {self.digits}")
        if not 8 / self.size <= self.scale[0] <= self.scale[1] <= 0.8:
            raise ValueError(f"scale must be two shares in order, {8 / self.size:g} to 0.8, got {self.scale}")
        object.__setattr__(self, "photographs", photographs())
        object.__setattr__(self, "scans", {split: Digits(name) for split, name in SPLITS.items()})

    def scene(self, split: str, number: int) -> Tuple[Image.Image, List[Tuple[int, np.ndarray]]]:
        """One scene.

        Args:
            split: "training" or "validation".
            number: From 0.

        Returns:
            The picture, and (class, mask) of each digit: masks are bool `[size, size]` and never overlap.
        """
        rng = np.random.default_rng([self.seed, list(SPLITS).index(split), number])
        canvas = self._background(rng)
        taken = np.zeros((self.size, self.size), dtype=bool)
        instances = []
        for _ in range(rng.integers(self.digits[0], self.digits[1] + 1)):
            label, ink = self._digit(split, rng)
            for _ in range(TRIES):
                top, left = rng.integers(0, self.size - np.array(ink.shape) + 1)
                where = (slice(top, top + ink.shape[0]), slice(left, left + ink.shape[1]))
                if not taken[where].any():
                    break
            else:
                continue  # no room left
            mask = np.zeros_like(taken)
            mask[where] = ink > 0.5
            color = contrasting_color(canvas[mask].mean(0), rng)
            canvas[where] += ink[..., None] * (color - canvas[where])
            taken[where] |= ink > 0.05
            instances.append((label, mask))
        noise = rng.normal(0, 3, canvas.shape)
        return Image.fromarray((canvas + noise).clip(0, 255).astype(np.uint8)), instances

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        photograph = self.photographs[rng.integers(len(self.photographs))]
        short = min(photograph.size)
        side = int(short * rng.uniform(0.4, 1.0))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in photograph.size)
        box = (left, top, left + side, top + side)
        crop = photograph.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        return np.asarray(crop, dtype=np.float64).copy()

    def _digit(self, split: str, rng: np.random.Generator) -> Tuple[int, np.ndarray]:
        """A digit's class and its ink, 0 to 1, cut to the rows and columns that have some."""
        digits = self.scans[split]
        index = int(rng.integers(len(digits)))
        height = round(rng.uniform(*self.scale) * self.size * (8 + 2 * MARGIN) / 8)
        scan = Image.fromarray(np.pad(digits.scans[index], MARGIN))
        scan = scan.resize((round(height * rng.uniform(0.8, 1.1)), height), Image.Resampling.BICUBIC)
        scan = scan.filter(ImageFilter.GaussianBlur(height / 48))
        scan = scan.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
        ink = ((np.asarray(scan, dtype=np.float64) - 80) / 80).clip(0, 1)  # a steeper edge than the scan's
        rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
        return digits.labels[index], ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def photographs() -> List[Image.Image]:
    """The photographs that scikit-image and scikit-learn carry, as RGB."""
    found = []
    for folder, names in PHOTOGRAPHS.items():
        package, _, inner = folder.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ModuleNotFoundError(f"photographs of {package} are needed: pip install 'visionattn[dense]'")
        found += [load_image(Path(spec.origin).parent / inner / name) for name in names]
    return found


def contrasting_color(under: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random colour that stands out from the mean colour under it."""
    for _ in range(TRIES):
        color = rng.uniform(0, 255, 3)
        if np.abs(color - under).max() > 100 and abs(color.mean() - under.mean()) > 40:
            break
    return color


def write_digit_scenes(
    folder: Union[str, os.PathLike],
    scenes: DigitScenes,
    counts: Dict[str, int],
    overwrite: bool = False,
    jobs: int = 1,
) -> Iterator[None]:
    """Writes the data set; a generator that yields after each scene, so that a caller can show progress.

    Both layouts share the images: `images/{training,validation}/000000.jpg`; `annotations/instances_training.json` and
    `..._validation.json` in COCO format (category ids 1 to 10 for the digits 0 to 9, masks run-length encoded);
    `annotations/{training,validation}/000000.png` with 0 for the photograph and 1 to 10 for the digits, as in ADE20K.
    `samples.png` shows some. Everything is written to a temporary folder beside the target and renamed at the end.

    Args:
        folder: What to make.
        scenes: What is in it.
        counts: Scenes per split.
        overwrite: Replace an existing folder.
        jobs: Processes.

    Raises:
        ValueError: the folder exists, or a count or `jobs` below 1.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise ValueError(f"{folder} exists")
    if counts.keys() != SPLITS.keys() or min(counts.values()) < 1:
        raise ValueError(f"counts must be at least 1 for each of {', '.join(SPLITS)}, got {counts}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    temporary = folder.parent / f".tmp-{os.getpid()}-{folder.name}"
    pool = ProcessPoolExecutor(jobs) if jobs > 1 else None
    try:
        for split, count in counts.items():
            (temporary / "images" / split).mkdir(parents=True)
            (temporary / "annotations" / split).mkdir(parents=True)
            write = functools.partial(_write_scene, temporary, scenes, split)
            found = (
                pool.map(write, range(count), chunksize=-(-count // (4 * jobs))) if pool else map(write, range(count))
            )
            content: Dict[str, List[Any]] = {
                "images": [],
                "annotations": [],
                "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
            }
            for image, entries in found:
                content["images"].append(image)
                for entry in entries:
                    content["annotations"].append({"id": len(content["annotations"]) + 1, **entry})
                yield
            (temporary / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        draw_samples(temporary)
        if overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _write_scene(
    folder: Path, scenes: DigitScenes, split: str, number: int
) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    """Writes a scene's picture and label map; its `images` entry and `annotations` entries without ids."""
    picture, instances = scenes.scene(split, number)
    stem = f"{number:06d}"
    picture.save(folder / "images" / split / f"{stem}.jpg", quality=90)
    label_map = np.zeros((scenes.size, scenes.size), dtype=np.uint8)
    for label, mask in instances:
        label_map[mask] = label + 1
    Image.fromarray(label_map).save(folder / "annotations" / split / f"{stem}.png")
    image = {"id": number + 1, "file_name": f"{stem}.jpg", "width": picture.width, "height": picture.height}
    entries = [
        {"image_id": number + 1, "category_id": label + 1, **coco_mask(mask), "iscrowd": 0} for label, mask in instances
    ]
    return image, entries


def coco_mask(mask: np.ndarray) -> Dict[str, Any]:
    """`segmentation` (run lengths), `bbox` (x, y, width, height) and `area` of a bool mask."""
    from pycocotools import mask as coding

    code = coding.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode()},
        "bbox": coding.toBbox(code).tolist(),
        "area": int(mask.sum()),
    }


def draw_samples(folder: Path, columns: int = 6) -> None:
    """Draws training scenes above their masks into `samples.png`."""
    from matplotlib import colormaps

    paths = sorted((folder / "images" / "training").iterdir())[: 2 * columns]
    colors = np.concatenate([[[40, 40, 44]], np.array(colormaps["tab10"].colors) * 255]).astype(np.uint8)
    tiles = []
    for path in paths:
        labels = np.asarray(Image.open(folder / "annotations" / "training" / f"{path.stem}.png"))
        tiles.append(np.concatenate([np.asarray(load_image(path)), colors[labels]]))
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows)).save(folder / "samples.png")
