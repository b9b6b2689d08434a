"""Segmentation window by window."""

import pytest
import torch
from torch import nn

from visionattn.downstream import sliding_window
from visionattn.downstream.windows import window_starts


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def pointwise(x):
    """Logits of three classes that depend on nothing but the pixel."""
    return torch.cat([x.sum(1, keepdim=True), x.square()[:, :2]], 1)


def argmax(logits):
    return logits.argmax(1, keepdim=True)


def average_of_windows(model, x, window, stride):
    """The definition, at full depth and size."""
    total, visits = 0, torch.zeros(x.shape[2:])
    for top in window_starts(x.shape[2], window[0], stride[0]):
        for left in window_starts(x.shape[3], window[1], stride[1]):
            place = (slice(None), slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
            part = torch.zeros(x.shape[0], 3, *x.shape[2:])
            part[place] = model(x[place])
            total = total + part
            visits[place[2:]] += 1
    assert visits.min() >= 1
    return total / visits


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((32, 32), 32, None),
        ((33, 50), (16, 24), (16, 24)),
        ((33, 50), (16, 24), (5, 7)),
        ((40, 31), 16, 1),
        ((7, 90), 32, 20),  # lower than the window
        ((9, 11), (64, 32), None),  # smaller in both
        ((1, 1), 1, 1),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_pointwise_model_sees_no_windows(size, window, stride, batch_size):
    x = images(2, 3, *size)
    out = sliding_window(pointwise, x, window, stride, batch_size)
    torch.testing.assert_close(out, pointwise(x))
    reduced = sliding_window(pointwise, x, window, stride, batch_size, reduce=argmax)
    assert torch.equal(reduced, argmax(out))


def test_average_over_windows():
    torch.manual_seed(0)
    model, x = nn.Conv2d(3, 3, 5, padding=2), images(2, 3, 37, 45)
    out = sliding_window(model, x, (16, 20), (10, 12), batch_size=4)
    torch.testing.assert_close(out, average_of_windows(model, x, (16, 20), (10, 12)))
    assert not torch.allclose(out, model(x), atol=1e-3)  # borders of windows leave their mark
    assert not out.requires_grad


def test_windows_are_batched_and_bands_are_low():
    sizes, bands = [], []

    def model(x):
        sizes.append(tuple(x.shape))
        return pointwise(x).bfloat16()

    def reduce(logits):
        bands.append(logits.shape[2])
        return logits

    out = sliding_window(model, images(1, 3, 100, 60), 20, 20, batch_size=2, reduce=reduce)
    assert out.dtype == torch.float32
    assert sizes == [(2, 3, 20, 20), (1, 3, 20, 20)] * 5
    assert bands == [20] * 5


def test_devices():
    seen = []

    def model(x):
        seen.append(x.device.type)
        return pointwise(x)

    out = sliding_window(model, images(1, 3, 20, 20), 16, 8, device="meta", accumulate_on="meta")
    assert set(seen) == {"meta"}
    assert out.device.type == "meta"


@pytest.mark.parametrize("length", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("stride", [1, 3, 16])
def test_starts_cover_the_axis(length, stride):
    starts = window_starts(length, 16, stride)
    assert {i for start in starts for i in range(start, start + min(16, length))} == set(range(length))
    assert sorted(set(starts)) == starts


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.zeros(3, 8, 8)}, ValueError, r"images must have shape .* got \[3, 8, 8\]"),
        ({"images": torch.zeros(1, 3, 0, 8)}, ValueError, "images must have shape"),
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, TypeError, "images must be floating point"),
        ({"window": 0}, ValueError, "window must be at least 1, got 0"),
        ({"window": (8, 8, 8)}, ValueError, "window must be"),
        ({"window": 8.0}, TypeError, "window must be"),
        ({"stride": 9}, ValueError, r"stride must be at least 1 and at most the window's \[8, 8\], got 9"),
        ({"stride": 0}, ValueError, "stride must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"model": nn.AvgPool2d(2)}, ValueError, r"logits of shape \[1, classes, 8, 8\], got \[1, 3, 4, 4\]"),
        ({"reduce": lambda logits: logits.argmax(1)}, ValueError, "reduce must return shape"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        sliding_window(**{"model": pointwise, "images": images(1, 3, 20, 20), "window": 8, **arguments})
