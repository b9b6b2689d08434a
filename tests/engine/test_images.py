"""Image files of every kind become the right 8-bit RGB, or a message."""

import numpy as np
import pytest
from PIL import Image

from visionattn.engine.images import ImageError, find_images, load_image, to_rgb

RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def rgba(alpha):
    return np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, alpha)])


def close(image, expected, tolerance=2):
    found = np.asarray(image).astype(int)
    assert image.mode == "RGB"
    assert np.abs(found - np.broadcast_to(expected, found.shape)).max() <= tolerance


GREY = RAMP[..., None].astype(int)


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        pytest.param(Image.fromarray(RAMP), "a.png", GREY, id="grey"),
        pytest.param(Image.fromarray(RAMP.astype(np.uint16) * 257), "a.png", GREY, id="16-bit-png"),
        pytest.param(Image.fromarray(RAMP.astype(np.int32) * 257), "a.tiff", GREY, id="32-bit-integer-tiff"),
        pytest.param(Image.fromarray(RAMP.astype(np.float32) / 255), "a.tiff", GREY, id="float-tiff"),
        pytest.param(Image.fromarray(rgba(255)), "a.png", GREY, id="opaque"),
        pytest.param(Image.fromarray(rgba(0)), "a.png", 255, id="transparent-is-white"),
        pytest.param(Image.fromarray(rgba(128)), "a.webp", (GREY + 255) // 2, id="half-transparent"),
        pytest.param(Image.fromarray(RAMP).convert("LA"), "a.png", GREY, id="grey-and-alpha"),
        pytest.param(Image.fromarray(RAMP).convert("RGB").convert("CMYK"), "a.tiff", GREY, id="cmyk"),
        pytest.param(Image.fromarray(RAMP).convert("P"), "a.gif", GREY, id="palette"),
        pytest.param(Image.fromarray(RAMP > 127), "a.png", (GREY > 127) * 255, id="one-bit"),
        pytest.param(Image.new("RGB", (1, 1), (9, 9, 9)), "a.png", 9, id="one-pixel"),
    ],
)
def test_modes(tmp_path, image, name, expected):
    path = tmp_path / name
    image.save(path, **({"lossless": True} if name.endswith("webp") else {}))
    close(load_image(path), expected)


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)
    close(load_image(path), np.array([254, 0, 0]), tolerance=12)


def test_exif_orientation_is_applied_on_request(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    assert load_image(path).size == (20, 10)
    assert load_image(path, orient=True).size == (10, 20)


@pytest.mark.parametrize("samples", [np.float32([[0, 2]]), np.float32([[np.nan, 0]]), np.int32([[0, 70000]])])
def test_samples_out_of_range(samples):
    with pytest.raises(ValueError, match="samples must be in"):
        to_rgb(Image.fromarray(samples))


def test_find_images(tmp_path):
    for name in ("b/2.png", "b/c/1.JPG", "a.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    names = [p.relative_to(tmp_path).as_posix() for p in find_images([tmp_path / "a.png", tmp_path])]
    assert names == ["a.png", "b/2.png", "b/c/1.JPG"]
    assert [p.name for p in find_images([str(tmp_path / "b" / "*.png")])] == ["2.png"]


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="too large"):
        load_image(tmp_path / "a.png")
