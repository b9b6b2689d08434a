"""Detectors and segmenters on image files: what they find, in windows too, and what is written and drawn."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from pycocotools import mask as coding
from scipy import ndimage

from tests.engine.helpers import CONFIGS
from visionattn.engine import load_config, openmmlab
from visionattn.engine.checkpoint import atomic_save
from visionattn.engine.dense_models import DenseModel, category_ids, load_dense_model
from visionattn.engine.dense_predict import image_ids, predict_files, unique_names
from visionattn.engine.detections import Detections, detect_in_windows, encode_masks
from visionattn.engine.drawing import SMALLEST, class_colors, draw_class_map, draw_detections

DIGITS = tuple("0123456789")
DETECTORS = ["mask_rcnn_dinat_test_torchvision", "mask_rcnn_dinat_test_mmdet"]
SEGMENTERS = ["upernet_dinat_test_smp", "upernet_dinat_test_mmseg"]


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    noise(96, 128).save(folder / "000007.png")
    noise(70, 50, 1).save(folder / "000012.jpg")
    (folder / "000013.png").write_text("no image")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Called with a config's name and arguments of `load_dense_model`: the model, with weights from seed 0."""
    folder, checkpoints = tmp_path_factory.mktemp("weights"), {}

    def make(name, **arguments):
        kind = "detection" if name in DETECTORS else "segmentation"
        path = str(CONFIGS / kind / "digits" / f"{name}.py")
        config = load_config(path, {"data_root": str(folder / "no_data")})
        if name not in checkpoints:
            torch.manual_seed(0)
            if openmmlab.is_openmmlab(config):
                content = {"state_dict": openmmlab.build_model(config).state_dict()}
            else:
                classes = DIGITS if kind == "detection" else ("photograph", *DIGITS)
                content = {"state_dict": MODELS.build(config.model).net.state_dict(), "meta": {"classes": classes}}
            checkpoints[name] = str(folder / f"{name}.pth")
            atomic_save(content, checkpoints[name])
        return load_dense_model(config, checkpoints[name], **arguments)

    return make


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors(name, load, photos, tmp_path):
    model = load(name)
    assert model.classes == DIGITS
    rows = list(predict_files(model, photos, tmp_path, threshold=0.0))
    assert [bool(row["error"]) for row in rows] == [False, False, True]
    entries = json.loads((tmp_path / "predictions.json").read_text())
    found = [model.run(Image.open(path).convert("RGB")) for path in photos[:2]]
    assert len(entries) == sum(len(one.boxes) for one in found) > 0
    assert {entry["image_id"] for entry in entries} <= {7, 12}
    assert sum(sum(row["counts"].values()) for row in rows) == len(entries)
    for entry in entries:
        path, picture = (photos[0], (96, 128)) if entry["image_id"] == 7 else (photos[1], (70, 50))
        assert entry["file_name"] == str(path)
        assert 1 <= entry["category_id"] <= 10
        left, top, width, height = entry["bbox"]
        assert -0.01 <= left <= left + width <= picture[1] + 0.02
        assert -0.01 <= top <= top + height <= picture[0] + 0.02
        assert coding.decode(entry["segmentation"]).shape == picture
    one = found[0]
    assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    assert one.labels.min() >= 0
    first = entries[0]
    assert first["bbox"][2:] == pytest.approx((one.boxes[0, 2:] - one.boxes[0, :2]).tolist(), abs=0.01)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["000007.png", "000012.png"]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters(name, load, photos, tmp_path):
    model = load(name)
    rows = list(predict_files(model, photos, tmp_path))
    assert [bool(row["error"]) for row in rows] == [False, False, True]
    assert sum(rows[0]["counts"].values()) == pytest.approx(100, abs=0.1)
    image = Image.open(photos[0]).convert("RGB")
    expected = model.run(image)
    assert np.array_equal(np.array(Image.open(tmp_path / "class_maps" / "000007.png")), expected)
    assert expected.shape == (96, 128)
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert [entry["percent"] for entry in entries] == [row["counts"] for row in rows[:2]]
    whole = load(name, window=(96, 128)).run(image)
    assert (whole == expected).mean() > 0.99
    parts = load(name, window=64, stride=48, batch_size=2).run(image)
    assert parts.shape == expected.shape
    assert (parts != expected).any()


def blocks(height, width, count, seed):
    """A black picture with bright blocks of up to 40 pixels, apart from each other, red or green."""
    rng, pixels = np.random.default_rng(seed), np.zeros((height, width, 3), dtype=np.uint8)
    for _ in range(count):
        tall, wide = rng.integers(8, 41, 2)
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        around = pixels[max(0, top - 3) : top + tall + 3, max(0, left - 3) : left + wide + 3]
        if not around.any():
            pixels[top : top + tall, left : left + wide, rng.integers(0, 2)] = 255
    return Image.fromarray(pixels)


def find_blocks(image):
    """A perfect detector of them; of a block at an edge it sees what the edge leaves."""
    pixels = np.asarray(image)
    boxes, labels, masks = [], [], []
    for channel in (0, 1):
        areas, _ = ndimage.label(pixels[..., channel])
        for number, (rows, columns) in enumerate(ndimage.find_objects(areas), start=1):
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            labels.append(channel)
            masks.append(areas == number)
    masks = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, image.height, image.width, dtype=torch.bool)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = 0.5 + (boxes[:, 2:] - boxes[:, :2]).prod(1) / 4000
    return Detections(boxes, torch.tensor(labels, dtype=torch.int64), scores, encode_masks(masks))


def as_set(found):
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.masks)
    return {(tuple(box), label, mask["counts"], tuple(mask["size"])) for box, label, mask in rows}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("window", "stride"), [(128, 80), ((100, 160), (50, 100)), (1000, None)])
def test_windows_find_what_the_whole_shows(seed, window, stride):
    image = blocks(300, 420, 60, seed)
    whole = find_blocks(image)
    assert len(whole.boxes) > 15
    found = detect_in_windows(find_blocks, image, window, stride)
    assert as_set(found) == as_set(whole)
    assert len(found.boxes) == len(whole.boxes)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_windows_with_nothing_in_them():
    found = detect_in_windows(find_blocks, Image.new("RGB", (300, 200)), 128)
    assert found.boxes.shape == (0, 4)
    assert found.masks == []


def test_a_thing_larger_than_the_overlap_stays_in_parts():
    pixels = np.zeros((64, 200, 3), dtype=np.uint8)
    pixels[20:40, 10:190, 0] = 255
    found = detect_in_windows(find_blocks, Image.fromarray(pixels), 100, (100, 90))
    assert found.boxes[:, 0].min() == 10
    assert found.boxes[:, 2].max() == 190


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"window": 0}, "window must be at least 1"), ({"window": 64, "stride": 65}, "stride must be at least 1 and")],
)
def test_wrong_windows(arguments, message):
    with pytest.raises(ValueError, match=message):
        detect_in_windows(find_blocks, Image.new("RGB", (99, 99)), **arguments)


@pytest.mark.parametrize("size", [(40, 30), (160, 160), (2000, 300)])
def test_drawing(size):
    width, height = size
    image = Image.new("RGB", size, (90, 90, 90))
    boxes = torch.tensor([[0, 0, width, height], [width / 2, height / 2, width / 2 + 1, height / 2], [2, 2, 20, 20.0]])
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    masks[0, : height // 2] = True  # an empty mask is no error
    found = Detections(boxes, torch.tensor([0, 1, 1]), torch.tensor([0.9, 0.5, 0.2]), encode_masks(masks))
    picture = draw_detections(image, found, ("a", "b"))
    factor = picture.width // width
    assert picture.size == (width * factor, height * factor)
    assert max(picture.size) > SMALLEST / 2
    upper, lower = (np.array(picture)[int(share * picture.height), picture.width // 2 + 9] for share in (0.3, 0.7))
    assert upper[0] > lower[0] == 90  # tinted in the first class's red
    assert draw_detections(image, found.above(0.95), ("a", "b")).tobytes() == (
        draw_detections(image, found.take(torch.zeros(0, dtype=torch.int64)), ("a", "b")).tobytes()
    )
    class_map = np.full((height, width), 255)
    class_map[height // 2 :] = 1
    mapped = draw_class_map(image, class_map, ("a", "b"))
    assert mapped.width > picture.width  # the legend
    pixels = np.array(mapped)
    assert tuple(pixels[picture.height // 4, picture.width // 2]) == (90, 90, 90)
    color = np.array(class_colors(2)[1])
    assert pixels[3 * picture.height // 4, picture.width // 2] == pytest.approx(90 * 0.45 + 0.55 * color, abs=1)
    with pytest.raises(ValueError, match="class_map must have the image's size"):
        draw_class_map(image, class_map[1:], ("a", "b"))


def test_colors_differ():
    assert len(set(class_colors(150))) == 150


def test_names_and_ids(tmp_path):
    from pathlib import Path

    paths = [Path("a/x.png"), Path("b/x.png"), Path("c/x_2.jpg"), Path("d/7.png")]
    assert unique_names(paths) == ["x", "x_2", "x_2_2", "7"]
    assert image_ids(paths) == [1, 2, 3, 4]
    assert image_ids([Path("000000000139.jpg"), Path("42.jpg")]) == [139, 42]
    assert category_ids(("person", "stop sign", "toothbrush")) == (1, 13, 90)  # COCO's ids have gaps
    assert category_ids(("nine", "ten")) == (1, 2)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"categories": [{"name": "ten", "id": 10}, {"name": "nine", "id": 9}]}))
    assert category_ids(("nine", "ten"), file) == (9, 10)


def test_many_classes(tmp_path):
    classes = tuple(map(str, range(300)))
    class_map = np.arange(40 * 30).reshape(30, 40) % 300
    noise(30, 40).save(tmp_path / "a.png")
    list(predict_files(DenseModel(lambda image: class_map, classes, None), [tmp_path / "a.png"], tmp_path / "out"))
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "class_maps" / "a.png")), class_map)


def test_wrong_use(load, photos, tmp_path):
    config = load_config(str(CONFIGS / "classification/dinat/dinat_test_digits.py"))
    with pytest.raises(ValueError, match="no detector or segmenter, its model's type is 'ImageClassifier'"):
        load_dense_model(config, "none.pth")
    with pytest.raises(ValueError, match="threshold must be from 0 to 1, got 30"):
        next(predict_files(load(DETECTORS[0]), photos, tmp_path, threshold=30))
