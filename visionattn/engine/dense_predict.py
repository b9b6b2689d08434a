"""Detection and segmentation of image files: pictures, results in COCO's format, class maps."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
from PIL import Image

from visionattn.engine.checkpoint import atomic_write
from visionattn.engine.dense_models import DenseModel
from visionattn.engine.detections import Detections, coco_entries
from visionattn.engine.drawing import class_colors, draw_class_map, draw_detections
from visionattn.engine.images import ImageError, load_image

__all__ = ["predict_files", "print_summary"]


def predict_files(
    model: DenseModel, paths: Sequence[Path], out: Path, threshold: float = 0.3
) -> Iterator[Dict[str, Any]]:
    """Runs a model over image files, and writes what it finds; one that can't be read doesn't stop the others.

    `out/pictures/NAME.png` shows the finds. Of a detector, `out/predictions.json` has all of them in COCO's results
    format (`image_id`, `category_id`, `bbox` as left, top, width and height, `score`, `segmentation` as run lengths),
    and `file_name` besides. `image_id` is the number that a file's name is, as in COCO, or its place in the list from 1
    if not all names are different numbers. Of a segmenter, `out/class_maps/NAME.png` holds each pixel's class, and
    `out/predictions.json` lists the files with the classes' shares of the area.

    Args:
        model: From `load_dense_model`.
        paths: Image files.
        out: Folder to write to.
        threshold: Least score of the detections in the picture.

    Yields:
        For each file, when it is done, `dict(path, error, counts)`: `error` is None or says why it can't be read;
        `counts` are detections above the threshold by class name, or percentages of the area.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, got {threshold}")
    entries: List[Dict[str, Any]] = []
    for path, name, image_id in zip(paths, unique_names(paths), image_ids(paths)):
        row: Dict[str, Any] = {"path": str(path), "error": None, "counts": {}}
        try:
            image = load_image(path, orient=True)
        except (ImageError, FileNotFoundError) as error:
            yield {**row, "error": str(error)}
            continue
        found = model.run(image)
        if isinstance(found, Detections):
            sure = found.above(threshold)
            picture = draw_detections(image, sure, model.classes)
            row["counts"] = dict(Counter(model.classes[label] for label in sure.labels.tolist()))
            entries += [
                {**entry, "file_name": str(path)} for entry in coco_entries(found, image_id, model.category_ids)
            ]
        else:
            picture = draw_class_map(image, found, model.classes)
            row["counts"] = area_shares(found, model.classes)
            target = out / "class_maps" / f"{name}.png"
            save_png(class_map_image(found, len(model.classes)), target)
            entries.append({"file_name": str(path), "class_map": str(target), "percent": row["counts"]})
        save_png(picture, out / "pictures" / f"{name}.png")
        yield row
    text = json.dumps(entries, indent=None if model.category_ids else 2)
    atomic_write(out / "predictions.json", lambda file: file.write(text.encode()))


def image_ids(paths: Sequence[Path]) -> List[int]:
    """The numbers that all files' names are, as in COCO, or else their places from 1."""
    numbers = [int(path.stem) for path in paths if path.stem.isdecimal()]
    return numbers if len(set(numbers)) == len(paths) else list(range(1, len(paths) + 1))


def unique_names(paths: Sequence[Path]) -> List[str]:
    """The files' names without suffix, numbered where several share one."""
    names: Dict[str, None] = {}
    for path in paths:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}_{number}"
        names[name] = None
    return list(names)


def area_shares(class_map: np.ndarray, classes: Sequence[str]) -> Dict[str, float]:
    """Percentages of the area by class name, the largest first."""
    counts = np.bincount(class_map[class_map < len(classes)], minlength=len(classes))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return {classes[i]: round(100 * int(counts[i]) / class_map.size, 2) for i in order}


def class_map_image(class_map: np.ndarray, count: int) -> Image.Image:
    """A class map as an image whose values are the classes: with a palette up to 256 classes, else of 16 bits."""
    if count > 256:
        return Image.fromarray(class_map.astype(np.uint16))
    image = Image.fromarray(class_map.astype(np.uint8), mode="P")
    image.putpalette([value for color in class_colors(count) for value in color])
    return image


def save_png(image: Image.Image, path: Path) -> None:
    def write(file: Any) -> None:
        buffer = io.BytesIO()  # Pillow seeks in what it writes
        image.save(buffer, format="PNG", compress_level=3)
        file.write(buffer.getbuffer())

    atomic_write(path, write)


def print_summary(rows: Sequence[Dict[str, Any]], most: int = 5) -> None:
    """Prints what `predict_files` found as a table on the terminal."""
    from rich.table import Table

    from visionattn.engine.tables import wide_console

    table = Table("image", "found")
    for row in rows:
        counts = sorted(row["counts"].items(), key=lambda item: -item[1])
        shown = [f"{name}: {value:g}{'' if isinstance(value, int) else ' %'}" for name, value in counts[:most]]
        text = ", ".join(shown) + (", ..." if len(counts) > most else "")
        table.add_row(Path(row["path"]).name, f"[red]{row['error']}[/red]" if row["error"] else text or "nothing")
    wide_console().print(table)
