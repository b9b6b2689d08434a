"""Detection: data sets, average precision, and a run from training to evaluation."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, METRICS, MODELS

from tests.engine.dense import NARROW, dense_config, make_scenes
from tests.engine.helpers import CONFIGS, training_losses
from visionattn.engine import load_config
from visionattn.engine.checkpoint import CheckpointError, atomic_save, read_checkpoint
from visionattn.engine.coco import check_annotations
from visionattn.engine.detection import average_precision
from visionattn.engine.detections import Detections, coco_entries, encode_masks
from visionattn.engine.hooks import read_history
from visionattn.engine.optim import parameter_groups
from visionattn.engine.seeding import SampleKey
from visionattn.engine.train import dry_run, evaluate, train

DIGITS = "0123456789"
ANNOTATIONS = "annotations/instances_validation.json"


RECIPES = [*CONFIGS.glob("detection/digits/*_torchvision.py"), *CONFIGS.glob("segmentation/digits/*_smp.py")]


@pytest.mark.parametrize("path", sorted(RECIPES), ids=lambda path: path.stem)
def test_recipe(path):
    config = load_config(str(path))
    assert config.train_cfg.max_epochs == config.param_scheduler[-1].end
    assert config.train_dataloader.dataset.root == config.data_root
    assert config.val_dataloader.dataset.root == config.data_root
    assert config.default_hooks.checkpoint.best in ("bbox_map", "miou")
    assert MODELS.build(config.model).num_classes == len(DIGITS) + (config.model.type == "Segmenter")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes") / "set")


def dataset(scenes, **options):
    paths = {"root": scenes, "ann_file": ANNOTATIONS, "image_dir": "images/validation"}
    return DATASETS.build({"type": "CocoInstances", **paths, **options})


def test_items(scenes):
    data = dataset(scenes)
    item = data[0]
    target = item["data_samples"]
    assert item["inputs"].shape == (3, 64, 64)
    assert item["inputs"].dtype == torch.uint8
    count = len(target["boxes"])
    assert target["masks"].shape == (count, 64, 64)
    for box, mask in zip(target["boxes"], target["masks"]):
        rows, columns = np.nonzero(mask.numpy())
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert target["labels"].min() >= 1
    assert not target["padding"]
    assert data[SampleKey(0, padding=True)]["data_samples"]["padding"]
    assert data.metainfo["classes"] == tuple(DIGITS)


def test_augmentation_moves_everything_and_drops_what_is_gone(scenes):
    flipped = dataset(scenes, transforms=[{"type": "RandomHorizontalFlip", "p": 1.0}])[0]
    plain = dataset(scenes)[0]
    torch.testing.assert_close(flipped["inputs"].flip(-1), plain["inputs"])
    torch.testing.assert_close(flipped["data_samples"]["masks"].flip(-1), plain["data_samples"]["masks"])
    torch.testing.assert_close(flipped["data_samples"]["boxes"][:, 0], 64 - plain["data_samples"]["boxes"][:, 2])
    cut = dataset(scenes, transforms=[{"type": "RandomCrop", "size": 8}])
    for index in range(len(cut)):
        target = cut[SampleKey(index, seed=index)]["data_samples"]
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        assert (target["masks"].flatten(1).sum(1) > 0).all()
    one, two = (cut[SampleKey(0, seed=5)]["inputs"] for _ in range(2))
    assert torch.equal(one, two)


def test_crowds_and_empty_images(scenes, tmp_path):
    content = json.loads((scenes / ANNOTATIONS).read_text())
    first = content["images"][0]["id"]
    for entry in content["annotations"]:
        entry["iscrowd"] = int(entry["image_id"] == first)
    changed = tmp_path / "crowds.json"
    changed.write_text(json.dumps(content))
    data = dataset(scenes, ann_file=str(changed))
    assert len(data) == 3
    assert data[0]["data_samples"]["masks"].shape == (0, 64, 64)
    assert len(dataset(scenes, ann_file=str(changed), skip_empty=True)) == 2
    content["annotations"] = []
    changed.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has an instance"):
        dataset(scenes, ann_file=str(changed), skip_empty=True)


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        ({"type": "Mirror"}, ValueError, "classes of torchvision.transforms.v2, got 'Mirror'"),
        ({"p": 0.5}, ValueError, "got None"),
        ({"type": "RandomHorizontalFlip", "q": 0.5}, TypeError, "transform RandomHorizontalFlip: .*'q'"),
    ],
)
def test_wrong_transforms(scenes, step, error, message):
    with pytest.raises(error, match=message):
        dataset(scenes, transforms=[step])


def random_results(annotations, seed):
    """The truth of each image disturbed, some of it doubled, with wrong labels or missing."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for image in annotations.images:
        from pycocotools import mask as coding

        entries = annotations.instances[image["id"]]
        boxes = torch.tensor([entry["bbox"] for entry in entries])
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.from_numpy(np.stack([coding.decode(entry["segmentation"]) for entry in entries])).bool()
        labels = torch.tensor([entry["category_id"] - 1 for entry in entries])
        truth.append({"boxes": boxes, "masks": masks, "labels": labels})
        pick = torch.from_numpy(rng.integers(0, len(entries), 2 * len(entries)))
        shift = torch.from_numpy(rng.integers(-3, 4, (len(pick), 4)))
        wrong = torch.from_numpy(rng.random(len(pick)) < 0.3)
        found.append(
            {
                "boxes": boxes[pick] + shift,
                "masks": torch.stack([masks[i].roll(int(s[0]), 1) for i, s in zip(pick, shift)]),
                "labels": torch.where(wrong, (labels[pick] + 1) % 10, labels[pick]),
                "scores": torch.from_numpy(rng.permutation(len(pick)) + 1.0) / 100 + image["id"] * 1e-3,
            }
        )
    return found, truth


def test_average_precision_is_that_of_torchmetrics(scenes):
    from torchmetrics.detection import MeanAveragePrecision

    annotations = check_annotations(scenes / ANNOTATIONS, scenes / "images/validation")
    found, truth = random_results(annotations, 0)
    peer = MeanAveragePrecision(iou_type=("bbox", "segm"))
    peer.update(found, truth)
    expected = peer.compute()
    detections = []
    for image, result in zip(annotations.images, found):
        parts = (result["boxes"], result["labels"], result["scores"], encode_masks(result["masks"]))
        detections += coco_entries(Detections(*parts), image["id"], annotations.category_ids)
    for kind in ("bbox", "segm"):
        values = average_precision(annotations, detections, [image["id"] for image in annotations.images], kind)
        names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
        assert values == pytest.approx([expected[f"{kind}_{name}"].item() for name in names], abs=1e-4)
        assert 0.05 < values[0] < 0.95


def test_metric(scenes):
    metric = METRICS.build({"type": "CocoAP", "iou_types": ("bbox",)})
    data = dataset(scenes)
    metric.dataset_meta = data.metainfo
    samples = [data[i]["data_samples"] for i in range(3)]
    right = [
        {**sample, "masks": sample["masks"][:, None].float(), "scores": torch.ones(len(sample["labels"]))}
        for sample in samples
    ]
    metric.process(None, right[:2])
    metric.process(None, [*right[2:], {**right[0], "padding": True}])  # fills the last batch
    values = metric.evaluate(3)
    assert next(iter(values)) == "bbox_map50"
    assert values["bbox_map"] == pytest.approx(100)
    assert "bbox_map_large" not in values  # there is nothing large
    metric.process(
        None,
        [
            {**sample, "scores": sample["labels"][:0]} | {k: sample[k][:0] for k in ("boxes", "labels", "masks")}
            for sample in samples
        ],
    )
    assert metric.evaluate(3)["bbox_map"] == 0
    with pytest.raises(ValueError, match="iou_types must be"):
        METRICS.build({"type": "CocoAP", "iou_types": ("keypoints",)})


def test_from_training_to_evaluation(scenes, tmp_path):
    """A resumed run repeats what an uninterrupted one does, and the best weights give the validation's scores again."""
    train(dense_config("detection", scenes, tmp_path / "whole"))
    train(dense_config("detection", scenes, tmp_path / "halves", train_cfg__max_epochs=1))
    train(dense_config("detection", scenes, tmp_path / "halves"), resume="auto")
    whole, halves = (training_losses(tmp_path / name) for name in ("whole", "halves"))
    assert len(whole) == 4
    assert halves == whole
    rows = [row for row in read_history(tmp_path / "whole" / "history.jsonl") if "val_bbox_map" in row]
    assert len(rows) == 2
    best = read_checkpoint(tmp_path / "whole" / "best.pth")
    assert best["meta"]["classes"] == list(DIGITS)
    tested = evaluate(dense_config("detection", scenes, tmp_path / "test"), tmp_path / "whole" / "last.pth")
    assert {f"val_{name}": value for name, value in tested.items()} == {
        k: v for k, v in rows[-1].items() if k.startswith("val_")
    }
    pictures = sorted(path.name for path in (tmp_path / "whole" / "predictions").iterdir())
    assert pictures == ["00.png", "01.png", "02.png"]
    assert (tmp_path / "whole" / "curves.png").stat().st_size > 1000
    with pytest.raises(CheckpointError, match=r"best\.pth"):
        evaluate(dense_config("segmentation", scenes, tmp_path / "test"), tmp_path / "whole" / "best.pth")


def test_dry_run_with_mixed_precision(scenes, tmp_path, capsys):
    assert dry_run(dense_config("detection", scenes, tmp_path), amp="bfloat16")["loss"] > 0
    assert "4 training images, 2 batches of 2x3x64x64" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["faster_rcnn", "retinanet", "fcos"])
def test_detectors_without_masks(scenes, method):
    options = {"min_size": 64, "max_size": 64, "fpn_channels": 32}
    model = MODELS.build(
        {"type": "Detector", "method": method, "name": "van_test", "num_classes": 10, "model_args": options}
    )
    data = dataset(scenes, masks=False)
    samples = [data[i]["data_samples"] for i in range(2)]
    losses = model([data[i]["inputs"] for i in range(2)], samples, mode="loss")
    assert all(name.startswith("loss_") for name in losses)
    model.eval()
    found = model([data[i]["inputs"] for i in range(2)], samples, mode="predict")
    assert [result["image_id"] for result in found] == [sample["image_id"] for sample in samples]
    with pytest.raises(ValueError, match="mode must be"):
        model([data[0]["inputs"]], mode="guess")


def test_layers_and_decay_follow_the_backbone():
    model = MODELS.build(
        {
            "type": "Detector",
            "method": "mask_rcnn",
            "name": "dinat_test",
            "num_classes": 3,
            "model_args": NARROW["detection"],
        }
    )
    groups = parameter_groups(model.net, 1.0, 0.1, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(rate) == len(list(model.net.parameters()))
    body = model.net.backbone.pyramid.body.model
    stem, deep = next(body.stem.parameters()), next(body.stages[-1].parameters())
    assert rate[id(stem)] < rate[id(deep)] < 1.0
    assert {rate[id(p)] for part in (model.net.roi_heads, model.net.backbone.fpn) for p in part.parameters()} == {1.0}
    assert all((decay[id(param)] == 0.0) == (param.ndim <= 1) for param in model.net.roi_heads.parameters())
    free = [param for name, param in body.named_parameters() if name in body.no_weight_decay()]
    assert all(decay[id(param)] == 0.0 for param in free)


def test_backbone_weights(tmp_path):
    import timm

    torch.manual_seed(1)
    source = timm.create_model("dinat_test")
    atomic_save(source.state_dict(), tmp_path / "released.pth")
    options = {"type": "Detector", "method": "mask_rcnn", "num_classes": 3, "model_args": NARROW["detection"]}
    model = MODELS.build({**options, "name": "dinat_test", "checkpoint": str(tmp_path / "released.pth")})
    body = model.net.backbone.pyramid.body.model.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in source.state_dict().items() if name in body)
    assert len(body) > 50
    with pytest.raises(ValueError, match="not fit"):
        MODELS.build({**options, "name": "van_test", "checkpoint": str(tmp_path / "released.pth")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "yolo"}, "method must be one of"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"name": "vgg99"}, "vgg99"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({"type": "Detector", "method": "mask_rcnn", "name": "van_test", "num_classes": 3, **options})
