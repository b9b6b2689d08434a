"""Detections and class maps on pictures of any size, from 100 pixels to many thousands."""

from __future__ import annotations

import colorsys
import functools
import math
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visionattn.engine.detections import Detections

__all__ = ["class_colors", "draw_class_map", "draw_detections"]

Color = Tuple[int, int, int]
SMALLEST = 640  # pixels of the longer side that text needs; smaller pictures are enlarged
LETTERS = 50  # text heights in the longer side


def class_colors(count: int) -> List[Color]:
    """Bright colours, neighbours far apart: hues in steps of the golden ratio, in three strengths."""
    strengths = ((0.85, 0.95), (0.60, 0.80), (0.95, 0.70))
    colors = []
    for i in range(count):
        rgb = colorsys.hsv_to_rgb(i * 0.61803398875 % 1, *strengths[i % 3])
        colors.append(tuple(round(255 * value) for value in rgb))
    return colors


def draw_detections(image: Image.Image, found: Detections, classes: Sequence[str]) -> Image.Image:
    """Boxes, tinted masks, and class names with scores.

    Args:
        image: RGB.
        found: All of it is drawn.
        classes: Names.

    Returns:
        The picture; of small images one that is enlarged by a whole number.
    """
    colors = class_colors(len(classes))
    picture, factor = enlarged(image)
    if found.masks is not None:
        pixels = np.array(picture)
        for i in reversed(range(len(found.masks))):
            tint(pixels, found.masks[i], colors[int(found.labels[i])], factor)
        picture = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(picture), text_font(picture.size)
    boxes = [[round(value * factor) for value in box] for box in found.boxes.tolist()]
    labels, scores = found.labels.tolist(), found.scores.tolist()
    for (left, top, right, bottom), label in reversed(list(zip(boxes, labels))):
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(corners, outline=colors[label], width=line_width(picture.size))
    taken: List[Tuple[int, int, int, int]] = []
    for box, label, score in zip(boxes, labels, scores):
        text = f"{classes[label]} {score:.0%}"
        taken.append(label_place(font, text, box, picture.size, taken))
        left, top, right, bottom = taken[-1]
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colors[label])
        middle = ((left + right) / 2, (top + bottom) / 2)
        draw.text(middle, text, fill=on_color(colors[label]), font=font, anchor="mm")
    return picture


def draw_class_map(
    image: Image.Image, class_map: np.ndarray, classes: Sequence[str], opacity: float = 0.55, max_named: int = 24
) -> Image.Image:
    """The class of each pixel as a tint with outlines, beside it a legend with shares of the area.

    Args:
        image: RGB.
        class_map: `[height, width]`, indices of classes; what is no index of one stays as it is.
        classes: Names.
        opacity: Share of the class's colour in the picture.
        max_named: Classes in the legend, the largest first.

    Returns:
        The picture; of small images one that is enlarged by a whole number.

    Raises:
        ValueError: a map of another size.
    """
    if class_map.shape != (image.height, image.width):
        raise ValueError(f"class_map must have the image's size {[image.height, image.width]}, got {class_map.shape}")
    picture, factor = enlarged(image)
    inside = (class_map >= 0) & (class_map < len(classes))
    colors = class_colors(len(classes))
    palette = np.array([*colors, (0, 0, 0)], dtype=np.uint8)
    index = enlarged_map(np.where(inside, class_map, len(classes)).astype(np.int16), factor)
    pixels = np.array(picture)
    for top in range(0, len(pixels), 256):  # in bands: the blend is in float32
        rows = slice(top, top + 256)
        known = (index[rows] < len(classes))[..., None]
        pixels[rows] = np.where(known, blend(pixels[rows], palette[index[rows]], opacity), pixels[rows])
    pixels[edges(index, line_width(picture.size) // 2)] = 255
    shares = np.bincount(class_map[inside], minlength=len(classes)) / class_map.size
    order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > 0][:max_named]
    return with_legend(Image.fromarray(pixels), [(classes[i], shares[i], colors[i]) for i in order])


def enlarged(image: Image.Image) -> Tuple[Image.Image, int]:
    """A small picture enlarged by a whole number, so that there is room for text, and the number."""
    factor = max(1, SMALLEST // max(image.size))
    if factor == 1:
        return image.copy(), 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC), factor


def enlarged_map(values: np.ndarray, factor: int) -> np.ndarray:
    return values if factor == 1 else values.repeat(factor, 0).repeat(factor, 1)


def line_width(size: Sequence[int]) -> int:
    return max(2, round(max(size) / 400))


@functools.lru_cache(maxsize=8)
def sized_font(pixels: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), pixels)  # comes with matplotlib


def text_font(size: Sequence[int]) -> ImageFont.FreeTypeFont:
    """A font that can be read when a picture of that size is looked at as a whole."""
    return sized_font(max(SMALLEST, *size) // LETTERS)


def blend(pixels: np.ndarray, color: np.ndarray, opacity: float) -> np.ndarray:
    return (pixels * np.float32(1 - opacity) + color * np.float32(opacity)).astype(np.uint8)


def edges(values: np.ndarray, width: int) -> np.ndarray:
    """Where a map of labels changes within `width` pixels to the left or above: bool of the same shape."""
    found = np.zeros(values.shape, dtype=bool)
    for shift in range(1, max(1, width) + 1):
        found[:, shift:] |= values[:, shift:] != values[:, :-shift]
        found[shift:] |= values[shift:] != values[:-shift]
    return found


def tint(pixels: np.ndarray, mask: Dict[str, Any], color: Color, factor: int, opacity: float = 0.45) -> None:
    """Colours a mask in place, with an outline; only its bounding box is decoded to pixels of the picture."""
    from pycocotools import mask as coding

    left, top, width, height = (int(value) for value in coding.toBbox(mask))
    inner = coding.decode(mask)[top : top + height, left : left + width].astype(bool)
    inner = enlarged_map(np.pad(inner, 1), factor)
    outline = edges(inner, max(1, line_width(pixels.shape[:2]) // 2))[factor:-factor, factor:-factor]
    inner = inner[factor:-factor, factor:-factor]
    area = pixels[top * factor :, left * factor :][: inner.shape[0], : inner.shape[1]]
    area[inner] = blend(area[inner], np.array(color), opacity)
    area[outline & inner] = color


def on_color(color: Color) -> Color:
    """Black or white, whatever can be read on a colour."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def label_place(
    font: ImageFont.FreeTypeFont, text: str, box: Sequence[int], size: Sequence[int], taken: Sequence[Sequence[int]]
) -> Tuple[int, int, int, int]:
    """Where a box's label covers no other: above it, below it, or inside of it at the top or the bottom."""
    margin = font.size // 4
    width = math.ceil(font.getlength(text)) + 2 * margin
    height = sum(font.getmetrics()) + margin
    left, top, right, bottom = box
    places = [
        (x, y, x + width, y + height)
        for y in (top - height, bottom, top, bottom - height)
        for x in (max(0, min(side, size[0] - width)) for side in (left, right - width))
        if 0 <= y <= size[1] - height
    ]
    free = (place for place in places if not any(overlap(place, other) for other in taken))
    x, y = max(0, min(left, size[0] - width)), max(0, min(top, size[1] - height))
    return next(free, (x, y, x + width, y + height))


def overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def with_legend(picture: Image.Image, entries: Sequence[Tuple[str, float, Color]]) -> Image.Image:
    """A picture with a column beside it: colour, share of the area and name of each entry."""
    font = text_font(picture.size)
    row = round(1.6 * font.size)
    texts = [f"{100 * share:.1f} %  {name}" if share >= 0.001 else f"<0.1 %  {name}" for name, share, _ in entries]
    width = math.ceil(max((font.getlength(text) for text in texts), default=0)) + 3 * row
    height = max(picture.height, row * (len(entries) + 1))
    canvas = Image.new("RGB", (picture.width + width, height), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for i, (text, (_, _, color)) in enumerate(zip(texts, entries)):
        left, middle = picture.width + row // 2, row * (i + 1)
        draw.rectangle((left, middle - row // 3, left + row, middle + row // 3), fill=color)
        draw.text((left + 1.4 * row, middle), text, fill="black", font=font, anchor="lm")
    return canvas
