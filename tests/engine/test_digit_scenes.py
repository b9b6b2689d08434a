"""The made data set: the same from the same seed, disjoint splits, and layouts that agree with each other."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coding

from visionattn.engine.digit_scenes import CLASSES, DigitScenes, write_digit_scenes

COUNTS = {"training": 3, "validation": 2}


def write(folder, jobs=1, **options):
    for _ in write_digit_scenes(folder, DigitScenes(size=96, **options), COUNTS, jobs=jobs):
        pass
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_files(tmp_path):
    first, again, other = (
        write(tmp_path / name, jobs, seed=seed) for name, seed, jobs in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1))
    )
    assert files(first) == files(again)
    assert files(first) != files(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]  # nothing temporary is left


def test_layouts_agree(tmp_path):
    folder = write(tmp_path / "set")
    for split, count in COUNTS.items():
        content = json.loads((folder / f"annotations/instances_{split}.json").read_text())
        assert len(content["images"]) == count
        assert [entry["name"] for entry in content["categories"]] == list(CLASSES)
        for image in content["images"]:
            stem = image["file_name"].removesuffix(".jpg")
            assert Image.open(folder / f"images/{split}/{image['file_name']}").size == (96, 96)
            labels = np.asarray(Image.open(folder / f"annotations/{split}/{stem}.png"))
            expected = np.zeros((96, 96), dtype=np.uint8)
            for entry in content["annotations"]:
                if entry["image_id"] == image["id"]:
                    mask = coding.decode(entry["segmentation"]).astype(bool)
                    rows, columns = np.nonzero(mask)
                    x, y, width, height = entry["bbox"]
                    assert (rows.min(), columns.min()) == (y, x)
                    assert (rows.max() + 1, columns.max() + 1) == (y + height, x + width)
                    assert entry["area"] == mask.sum()
                    assert not expected[mask].any()
                    expected[mask] = entry["category_id"]
            assert expected.any()
            np.testing.assert_array_equal(labels, expected)


def test_splits_share_no_digit():
    scans = DigitScenes().scans
    training, validation = ({scan.tobytes() for scan in scans[split].scans} for split in COUNTS)
    assert not training & validation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 32}, "size must be at least 64"),
        ({"digits": (0, 3)}, "digits must be"),
        ({"digits": (4, 3)}, "digits must be"),
        ({"scale": (0.01, 0.3)}, "scale must be"),
    ],
)
def test_impossible_scenes(options, message):
    with pytest.raises(ValueError, match=message):
        DigitScenes(**options)


def test_existing_folder_and_wrong_counts(tmp_path):
    scenes = DigitScenes(size=64)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists"):
        next(write_digit_scenes(tmp_path / "there", scenes, COUNTS))
    with pytest.raises(ValueError, match="counts must be at least 1"):
        next(write_digit_scenes(tmp_path / "new", scenes, {"training": 1, "validation": 0}))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
