"""Segmentation of images that are too large for one pass, window by window."""

import itertools
from typing import Callable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

__all__ = ["as_sides", "sliding_window", "window_starts"]

Side = Union[int, Tuple[int, int]]
UNLIMITED = 2**31


def window_starts(length: int, window: int, stride: int) -> List[int]:
    """Where windows begin on an axis: every `stride`, the last one moved back so that it ends with the axis.

    Args:
        length: Of the axis.
        window: Of a window; one that is longer than the axis begins at 0.
        stride: From one to the next, at most `window`, so that nothing is left out.
    """
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def as_sides(name: str, value: Side, largest: Sequence[int] = (UNLIMITED, UNLIMITED)) -> Tuple[int, int]:
    """A height and a width from one number or two.

    Raises:
        TypeError: neither an int nor a sequence.
        ValueError: not two ints from 1 to `largest`.
    """
    if not isinstance(value, (int, list, tuple)):
        raise TypeError(f"{name} must be an int or (height, width), got {value!r}")
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or any(not isinstance(side, int) for side in sides):
        raise ValueError(f"{name} must be an int or (height, width), got {value!r}")
    if any(not 1 <= side <= most for side, most in zip(sides, largest)):
        most = "" if UNLIMITED in largest else f" and at most the window's {list(largest)}"
        raise ValueError(f"{name} must be at least 1{most}, got {value!r}")
    return sides[0], sides[1]


@torch.no_grad()
def sliding_window(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    window: Side,
    stride: Optional[Side] = None,
    batch_size: int = 1,
    reduce: Optional[Callable[[Tensor], Tensor]] = None,
    device: Union[torch.device, str, None] = None,
    accumulate_on: Union[torch.device, str, None] = None,
) -> Tensor:
    """Averages a segmenter's logits over overlapping windows.

    The windows go over the image row by row. What a row of windows completes is averaged, reduced and put away, so that
    full-depth logits are held of one window's height only: with `reduce`, batch * classes * window height * image width
    numbers, twice that while windows overlap. mmsegmentation's "slide" mode has the same windows.

    Args:
        model: Takes windows `[n, channels, h, w]`, returns logits `[n, classes, h, w]`; in eval mode.
        images: `[batch, channels, height, width]`, floating point, on any device.
        window: Height and width of a window, in pixels, or one number for both. Images that are smaller make smaller
            windows.
        stride: From a window to the next, at most `window`; two thirds of the window by default.
        batch_size: Windows at a time.
        reduce: Called with averaged logits `[batch, classes, rows, width]` of some rows, returns what is wanted of them
            as `[batch, anything, rows, width]`, such as `lambda logits: logits.argmax(1, keepdim=True)`.
        device: Where windows are moved to for the model; the images' device by default.
        accumulate_on: Where logits are summed up and the result lies, the images' device by default; such as "cpu" for
            what doesn't fit on a GPU.

    Returns:
        `[batch, classes, height, width]` float32 (float64 from float64 logits), or what `reduce` made of it.

    Raises:
        TypeError: `images` are not floating point.
        ValueError: another shape of images or of the model's logits, or sizes out of range.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape [batch, channels, height, width], got {list(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point, got {images.dtype}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    window = as_sides("window", window)
    default = tuple(max(1, side * 2 // 3) for side in window)
    steps = as_sides("stride", default if stride is None else stride, window)

    count, _, *size = images.shape
    height, width = (min(side, whole) for side, whole in zip(window, size))
    tops, lefts = (window_starts(*axis) for axis in zip(size, (height, width), steps))
    columns = sum(((torch.arange(size[1]) >= left) & (torch.arange(size[1]) < left + width)).int() for left in lefts)
    band, result = None, None
    for top, following in zip(tops, [*tops[1:], size[0]]):
        places = itertools.product(range(count), lefts)
        while chunk := list(itertools.islice(places, batch_size)):
            crops = torch.stack([images[i, :, top : top + height, left : left + width] for i, left in chunk])
            logits = model(crops.to(device or images.device))
            if logits.ndim != 4 or logits.shape[::2] + logits.shape[3:] != (len(chunk), height, width):
                raise ValueError(
                    f"the model must return logits of shape [{len(chunk)}, classes, {height}, {width}], "
                    f"got {list(logits.shape)}"
                )
            logits = logits.to(accumulate_on or images.device, torch.promote_types(logits.dtype, torch.float32))
            if band is None:  # sums of the rows from `top` on
                band = logits.new_zeros(count, logits.shape[1], height, size[1])
            for (i, left), values in zip(chunk, logits):
                band[i, :, :, left : left + width] += values
        ready = following - top
        rows = torch.tensor([sum(t <= y < t + height for t in tops) for y in range(top, following)])
        mean = band[:, :, :ready].div_((rows[:, None] * columns).to(band))
        done = mean if reduce is None else reduce(mean)
        if done.ndim != 4 or done.shape[::2] + done.shape[3:] != (count, ready, size[1]):
            raise ValueError(
                f"reduce must return shape [{count}, anything, {ready}, {size[1]}], got {list(done.shape)}"
            )
        if result is None:
            result = done.new_empty(count, done.shape[1], *size)
        result[:, :, top:following] = done
        unfinished = band[:, :, ready:].clone()
        band[:, :, : height - ready] = unfinished
        band[:, :, height - ready :] = 0
    return result
