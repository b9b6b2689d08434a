"""Annotation files: what is wrong is said at the start, what is harmless is left out and counted."""

import json

import pytest
from PIL import Image

from visionattn.engine.coco import AnnotationError, check_annotations, to_rle

SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]


def annotation(**changes):
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 2, 6, 6], "segmentation": SQUARE, **changes}


def content(*annotations, **changes):
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": list(annotations or [annotation()]),
        **changes,
    }


def check(folder, found, **options):
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    path = folder / "instances.json"
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    return check_annotations(path, folder, **options)


def rle(counts, size=(10, 20)):
    return {"size": list(size), "counts": counts}


def test_what_is_right(tmp_path):
    found = check(
        tmp_path,
        content(
            annotation(),
            annotation(segmentation=rle([190, 10])),
            annotation(segmentation=to_rle(SQUARE, (10, 20)) | {"counts": to_rle(SQUARE, (10, 20))["counts"].decode()}),
        ),
        classes=("dog", "cat"),
    )
    assert found.classes == ("dog", "cat")
    assert found.category_ids == (1, 3)
    assert len(found.instances[7]) == 3
    assert found.skipped == {}


def test_what_is_harmless_is_counted(tmp_path):
    found = check(
        tmp_path,
        content(
            annotation(),
            annotation(bbox=[2, 2, 0, 6]),
            annotation(bbox=[2, 2, 6, -1]),
            annotation(bbox=[30, 2, 6, 6]),
            annotation(segmentation=[]),
            annotation(segmentation=[[1, 1, 2, 2]]),
            annotation(segmentation=rle([200])),
        ),
    )
    assert len(found.instances[7]) == 1
    assert found.skipped == {"an empty box": 2, "a box outside of the image": 1, "an empty mask": 3}
    assert len(check(tmp_path, content(annotation(segmentation=None)), masks=False).instances[7]) == 1


MISSING = {"id": 8, "file_name": "gone.png", "width": 20, "height": 10}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", "holds a list, expected an object"),
        (content(images={}), "has no list of images"),
        (content(images=[]), "declares no images or no categories"),
        (content(images=[{"id": 7}]), "has no proper 'height'"),
        (content(images=content()["images"] * 2), "same id"),
        (content(images=[*content()["images"], MISSING]), r"of its 2 images in .* 1 are missing, such as gone.png"),
        (content(images=[MISSING | {"file_name": "instances.json"}]), "1 can't be read"),
        (content(images=[MISSING | {"file_name": "a.png", "width": 21}]), r"a.png \(10x20, the file says 10x21\)"),
        (content("text"), r"annotations\[0\] is no object"),
        (content(annotation(), annotation(image_id=9)), r"annotations\[1\]: image_id 9 is not among the images"),
        (content(annotation(category_id=2)), "category_id 2 is not among the categories 1, 3"),
        (content(annotation(bbox=[1, 2, 3])), "bbox must be"),
        (content(annotation(bbox=[1, 2, 3, float("nan")])), "bbox must be finite"),
        (content(annotation(segmentation=5)), "must be polygons or run lengths, got int"),
        (content(annotation(segmentation=[[1, 2, 3]])), "a polygon must be a list"),
        (content(annotation(segmentation=[[1, 2, 90, 4, 5, 6]])), "far beyond its image of 10 rows and 20 columns"),
        (content(annotation(segmentation=rle([200], (20, 10)))), r"size is \[20, 10\], but its image has 10 rows"),
        (content(annotation(segmentation=rle([100]))), "don't add up to 10x20"),
        (content(annotation(segmentation=rle(""))), "counts must be a list or text"),
        (content(annotation(segmentation=rle("nonsense!!"))), "run lengths are damaged"),
    ],
)
def test_what_is_wrong(tmp_path, found, message):
    with pytest.raises(AnnotationError, match=message):
        check(tmp_path, found)


def test_other_classes_and_missing_files(tmp_path):
    with pytest.raises(AnnotationError, match="has the classes dog, cat, expected cat, dog"):
        check(tmp_path, content(), classes=("cat", "dog"))
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        check_annotations(tmp_path / "gone.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="no image folder"):
        check_annotations(tmp_path / "instances.json", tmp_path / "gone")
