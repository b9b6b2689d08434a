"""Reading image files the way a classifier needs them: 8-bit RGB, or an error that says what is wrong with the file."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Iterable, List

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["IMAGE_SUFFIXES", "ImageError", "find_images", "load_image", "to_rgb"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class ImageError(ValueError):
    """An image file that can't be used; the message names the file and the reason."""


def to_rgb(image: Image.Image, background: int = 255) -> Image.Image:
    """Converts any Pillow image to 8-bit RGB without losing its meaning.

    Pillow's own `convert("RGB")` clips 16-bit images to white and shows the hidden colours under transparent pixels.

    Args:
        image: Any mode. 16-bit and 32-bit integer images must hold values of 0..65535, float images of 0..1.
        background: Grey value that shows through transparent pixels.

    Returns:
        An image of mode RGB and the same size.

    Raises:
        ValueError: integer or float samples out of range.
    """
    if image.mode.startswith("I"):  # 16 bits a sample, whatever the byte order; "I" holds them in 32
        samples = np.asarray(image).astype(np.int64)
        low, high = (int(samples.min()), int(samples.max())) if samples.size else (0, 0)
        if low < 0 or high > 65535:
            raise ValueError(f"integer samples must be in 0..65535, got {low}..{high}")
        return Image.fromarray((samples // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        samples = np.asarray(image)
        if not np.isfinite(samples).all() or samples.min() < 0 or samples.max() > 1:
            raise ValueError(f"float samples must be in 0..1, got {samples.min():g}..{samples.max():g}")
        return Image.fromarray((samples * 255 + 0.5).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (background, background, background, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")  # L, 1, P, CMYK, YCbCr, LAB, HSV: Pillow converts these correctly


def load_image(path: str | os.PathLike, orient: bool = False) -> Image.Image:
    """Reads an image file as 8-bit RGB.

    Args:
        path: File; of an animation the first frame is read.
        orient: Apply the EXIF orientation. Off for data sets, since published accuracies were taken without it.

    Returns:
        A fully decoded image of mode RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: empty, truncated, corrupt or foreign files, and samples out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {path}")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes)")
    try:
        with Image.open(path) as image:
            image.load()
            if orient:
                image = ImageOps.exif_transpose(image)
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large: {error}") from error
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from error
    except (OSError, SyntaxError, EOFError, IndexError) as error:  # what Pillow's decoders raise on damaged files
        raise ImageError(f"{path} is corrupt or truncated: {error}") from error


def find_images(inputs: Iterable[str | os.PathLike]) -> List[Path]:
    """Expands files, folders (searched recursively) and glob patterns to image files, sorted within each input.

    Raises:
        FileNotFoundError: an input that is no file, folder or pattern with a match, or a folder without images.
    """
    found: List[Path] = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not images:
                raise FileNotFoundError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in folder {path}")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            matches = sorted(Path(p) for p in glob.glob(str(entry), recursive=True) if os.path.isfile(p))
            if not matches:
                raise FileNotFoundError(f"{entry} is no file, no folder, and no pattern that matches a file")
            found += matches
    return list(dict.fromkeys(found))
