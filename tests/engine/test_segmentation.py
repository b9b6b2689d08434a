"""Segmentation: data sets, mean IoU, and a run from training to evaluation."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, METRICS, MODELS
from PIL import Image

from tests.engine.dense import dense_config, make_scenes
from tests.engine.helpers import training_losses
from visionattn.engine.checkpoint import atomic_save
from visionattn.engine.hooks import read_history
from visionattn.engine.optim import parameter_groups
from visionattn.engine.seeding import SampleKey
from visionattn.engine.segmentation import METHODS
from visionattn.engine.train import evaluate, train

CLASSES = ["photograph", *"0123456789"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes") / "set")


def dataset(root, **options):
    return DATASETS.build({"type": "SemanticFolder", "root": root, "split": "training", "classes": CLASSES, **options})


def segmenter(**options):
    defaults = {"type": "Segmenter", "method": "UPerNet", "name": "van_test", "num_classes": 11}
    return MODELS.build({**defaults, "model_args": {"decoder_channels": 16}, **options})


def test_items(scenes):
    data = dataset(scenes)
    item = data[1]
    assert item["inputs"].shape == (3, 64, 64)
    assert item["data_samples"]["labels"].shape == (64, 64)
    assert item["data_samples"]["name"] == "000001"
    assert data[SampleKey(1, padding=True)]["data_samples"]["padding"]
    shifted = dataset(scenes, zero_is_ignored=True)[1]["data_samples"]["labels"]
    plain = item["data_samples"]["labels"]
    assert torch.equal(shifted[plain > 0] + 1, plain[plain > 0])
    assert set(shifted[plain == 0].tolist()) == {255}
    flipped = dataset(scenes, transforms=[{"type": "RandomHorizontalFlip", "p": 1.0}])[1]
    assert torch.equal(flipped["inputs"].flip(-1), item["inputs"])
    assert torch.equal(flipped["data_samples"]["labels"].flip(-1), plain)


def layout(folder, labels=None, size=(6, 4)):
    for kind in ("images", "annotations"):
        (folder / kind / "training").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(folder / "images/training/a.jpg")
    if labels is not None:
        Image.fromarray(labels).save(folder / "annotations/training/a.png")
    return folder


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, FileNotFoundError, "1 of 1 images lack a label map in .*: a.png"),
        (np.zeros((3, 6), np.uint8), ValueError, r"a.png has the size \(3, 6\), its image \(4, 6\)"),
        (np.full((4, 6), 11, np.uint8), ValueError, "label 11, but there are 11 classes"),
        (np.zeros((4, 6, 3), np.uint8), ValueError, "expected one channel, got mode RGB"),
    ],
)
def test_wrong_label_maps(tmp_path, labels, error, message):
    with pytest.raises(error, match=message):
        dataset(layout(tmp_path, labels))


def test_missing_folders_and_ignored_pixels(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        dataset(tmp_path / "gone")
    layout(tmp_path, np.full((4, 6), 255, np.uint8))
    assert len(dataset(tmp_path)) == 1
    (tmp_path / "images/training/a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no images"):
        dataset(tmp_path)


def test_mean_iou():
    from torchmetrics.functional import jaccard_index

    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (2, 9, 7), generator=generator)
    found = torch.where(torch.rand(truth.shape, generator=generator) < 0.7, truth, 0)
    truth[:, 0] = 255
    metric = METRICS.build({"type": "MeanIoU"})
    metric.dataset_meta = {"classes": ["a", "b", "c", "never"]}
    samples = [{"prediction": f, "labels": t, "padding": False} for f, t in zip(found, truth)]
    metric.process(None, samples[:1])
    metric.process(None, [samples[1], {**samples[0], "padding": True}])
    values = metric.evaluate(2)
    expected = jaccard_index(found, truth, "multiclass", num_classes=3, ignore_index=255)
    assert values["miou"] == pytest.approx(100 * expected.item(), rel=1e-5)
    counted = truth != 255
    assert values["pixel_accuracy"] == pytest.approx(100 * (found == truth)[counted].float().mean().item())


def test_images_of_any_size():
    torch.manual_seed(0)
    model = segmenter().eval()
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((40, 70), (64, 33))]
    samples = [{"labels": torch.zeros(image.shape[1:], dtype=torch.uint8), "padding": False} for image in images]
    data = model.data_preprocessor({"inputs": images, "data_samples": samples})
    assert data["inputs"].shape == (2, 3, 64, 96)
    assert (data["inputs"][0, :, 40:] == 0).all()
    found = model(**data, mode="predict")
    assert [tuple(result["prediction"].shape) for result in found] == [(40, 70), (64, 33)]
    loss = model(**data, mode="loss")["loss_pixels"]
    logits = model(data["inputs"])
    cut = torch.cat([logit[:, :h, :w].flatten(1) for logit, (h, w) in zip(logits, ((40, 70), (64, 33)))], 1)
    torch.testing.assert_close(loss, -cut.log_softmax(0)[0].mean())
    with pytest.raises(ValueError, match="mode must be"):
        model(data["inputs"], mode="guess")


def test_from_training_to_evaluation(scenes, tmp_path):
    train(dense_config("segmentation", scenes, tmp_path / "whole"), amp="bfloat16")
    train(dense_config("segmentation", scenes, tmp_path / "halves", train_cfg__max_epochs=1), amp="bfloat16")
    train(dense_config("segmentation", scenes, tmp_path / "halves"), resume="auto", amp="bfloat16")
    assert training_losses(tmp_path / "halves") == training_losses(tmp_path / "whole")
    row = [row for row in read_history(tmp_path / "whole" / "history.jsonl") if "val_miou" in row][-1]
    tested = evaluate(dense_config("segmentation", scenes, tmp_path / "test"), tmp_path / "whole" / "last.pth")
    assert tested == {key: row[f"val_{key}"] for key in ("miou", "class_accuracy", "pixel_accuracy")}
    assert len(list((tmp_path / "whole" / "predictions").iterdir())) == 3
    assert (tmp_path / "whole" / "best.pth").exists()


@pytest.mark.parametrize("method", METHODS)
def test_layers_follow_the_backbone(method):
    model = segmenter(method=method, name="ravlt_test", model_args={"drop_path_rate": 0.1})
    groups = parameter_groups(model.net, 1.0, 0.1, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate) == len(list(model.net.parameters()))
    assert {rate[id(p)] for p in model.net.decoder.parameters()} == {1.0}
    assert max(rate[id(p)] for p in model.net.encoder.parameters()) < 1.0
    loss = model.net(torch.rand(2, 3, 64, 64)).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in model.net.parameters())


def test_backbone_weights(tmp_path):
    import timm

    torch.manual_seed(1)
    source = timm.create_model("van_test")
    atomic_save(source.state_dict(), tmp_path / "released.pth")
    body = segmenter(checkpoint=str(tmp_path / "released.pth")).net.encoder.model.model.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in source.state_dict().items() if name in body)
    assert len(body) > 50
    with pytest.raises(ValueError, match="not fit"):
        segmenter(name="dinat_test", checkpoint=str(tmp_path / "released.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "DeepLabV3"}, "method must be one of"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"name": "vgg99"}, "vgg99"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        segmenter(**options)
