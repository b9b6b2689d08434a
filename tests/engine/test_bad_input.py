"""Wrong configs, folders, images and checkpoints, and what each must say."""

from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS
from PIL import Image

from tests.engine.helpers import CONFIGS, tiny_config
from visionattn.engine.benchmark import benchmark_model
from visionattn.engine.checkpoint import (
    CheckpointError,
    atomic_save,
    load_weights,
    read_checkpoint,
    read_training_checkpoint,
)
from visionattn.engine.config import ConfigError, load_config, parse_options
from visionattn.engine.convert import convert_file
from visionattn.engine.data import Digits, EpochSampler, ImageFolder
from visionattn.engine.images import ImageError, find_images, load_image
from visionattn.engine.mmengine_compat import init_distributed
from visionattn.engine.predict import Predictor
from visionattn.engine.train import evaluate, train

DIGITS = str(CONFIGS / "classification" / "dinat" / "dinat_test_digits.py")


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with all sorts of files."""
    tmp_path = tmp_path_factory.mktemp("there")
    for split, name in (("train", "cat"), ("val", "cat"), ("val", "dog")):
        (tmp_path / "root" / split / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "root" / split / name / "0.png")
    (tmp_path / "flat" / "train").mkdir(parents=True)
    (tmp_path / "hollow" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "zero" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "zero" / "train" / "cat" / "0.png").touch()
    (tmp_path / "bad" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "bad" / "train" / "cat" / "0.png").write_bytes(b"not an image")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"code": Path("x")}, tmp_path / "pickle.pth")
    whole = timm.create_model("dinat_test", num_classes=10).state_dict()
    atomic_save({"state_dict": whole, "meta": {}}, tmp_path / "digits.pth")
    atomic_save(timm.create_model("nat_mini", num_classes=10).state_dict(), tmp_path / "other.pth")
    atomic_save({k: v for k, v in whole.items() if "stages.1" not in k}, tmp_path / "part.pth")
    content = (tmp_path / "digits.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "syntax.py").write_text("model = dict(")
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "bare.py").write_text("work_dir = 'x'")
    (tmp_path / "base.py").write_text("_base_ = 'nowhere.py'")
    return tmp_path


def digits(**options):
    return load_config(DIGITS, {key.replace("__", "."): value for key, value in options.items()})


def net(classes=10):
    return timm.create_model("dinat_test", num_classes=classes)


def build(registry, kind, **options):
    return registry.build({"type": kind, **options})


def optim_wrapper(**options):
    optimizer = torch.optim.SGD(net().parameters())
    return build(OPTIM_WRAPPERS, "PrecisionOptimWrapper", optimizer=optimizer, **options)


CASES = {
    # configs
    "no config": (lambda d: load_config(str(d / "nope.py")), FileNotFoundError, "no config file at"),
    "config of another kind": (lambda d: load_config(str(d / "text.pth")), ConfigError, "Python files"),
    "config with a syntax error": (
        lambda d: load_config(str(d / "syntax.py")), ConfigError,
        "can't be read: SyntaxError"),
    "config that raises": (lambda d: load_config(str(d / "raises.py")), ConfigError, "ZeroDivisionError"),
    "config without a base": (lambda d: load_config(str(d / "base.py")), FileNotFoundError, "nowhere.py"),
    "config without a model": (lambda d: load_config(str(d / "bare.py")), ConfigError, "no model section"),
    "unknown model": (lambda d: digits(model__name="dinat_huge"), ConfigError, "no model 'dinat_huge'"),
    "batch size 0": (lambda d: digits(train_dataloader__batch_size=0), ConfigError, "batch_size must be a positive"),
    "no epochs": (lambda d: digits(train_cfg__max_epochs=0), ConfigError, "max_epochs must be at least 1"),
    "odd batch with mixup": (
        lambda d: digits(model__mixup={"mixup_alpha": 1.0}, train_dataloader__batch_size=7),
        ConfigError, "must be even"),
    "option without a value": (lambda d: parse_options(["model.name"]), ConfigError, "options are key=value"),
    "option for no list": (lambda d: digits(test_evaluator__x__y=1), ConfigError, "cfg-options"),
    "batch above the data": (
        lambda d: train(tiny_config(d / "run", train_dataloader__batch_size=96)), ValueError,
        "48 samples"),
    "too few classes": (lambda d: train(tiny_config(d / "run", model__num_classes=1)), ConfigError, "2 classes"),
    "unknown model argument": (
        lambda d: build(MODELS, "ImageClassifier", name="dinat_test", num_classes=2, model_args={"depth": 3}),
        TypeError, "model dinat_test"),
    "smoothing of 1": (
        lambda d: build(MODELS, "ImageClassifier", name="dinat_test", num_classes=2, label_smoothing=1.0),
        ValueError, "label_smoothing must be in"),
    "smoothing in mixup": (
        lambda d: build(MODELS, "ClassificationPreprocessor", num_classes=2, mixup={"label_smoothing": 0.1}),
        ValueError, "set it on the classifier"),
    "unknown precision": (
        lambda d: optim_wrapper(amp="int8"),
        ValueError, "amp must be None, bfloat16 or float16"),
    "no accumulation": (
        lambda d: optim_wrapper(accumulative_counts=0),
        ValueError, "accumulative_counts must be a positive integer"),
    "unknown group setting": (
        lambda d: train(tiny_config(d / "run", optim_wrapper__paramwise_cfg={"decay": 1})),
        ValueError, "layer_decay only"),
    "average that never moves": (lambda d: build(HOOKS, "WeightAverage", decay=1.0), ValueError, "decay must be in"),
    "keeping no checkpoint": (
        lambda d: build(HOOKS, "CheckpointWriter", keep=0), ValueError,
        "keep must be at least 1"),
    "no log interval": (lambda d: build(HOOKS, "RunLog", interval=0), ValueError, "interval must be at least 1"),
    "best of what is not measured": (
        lambda d: train(tiny_config(d / "run", default_hooks__checkpoint__best="f1", train_cfg__max_epochs=1)),
        ValueError, "top1"),
    "top 0": (lambda d: build(METRICS, "TopKAccuracy", topk=(0,)), ValueError, "topk must be positive"),
    "nothing to evaluate": (lambda d: build(METRICS, "TopKAccuracy").evaluate(0), ValueError, "no batch"),
    "unknown wrapper": (
        lambda d: train(tiny_config(d / "run", model_wrapper_cfg={"type": "DataParallel"})),
        ValueError, "model_wrapper_cfg.type"),
    "sharding one process": (lambda d: train(tiny_config(d / "run"), fsdp=True), ConfigError, "launcher pytorch"),
    "unknown launcher": (lambda d: init_distributed("mpi"), ValueError, "none, pytorch or slurm, got 'mpi'"),
    "slurm without srun": (lambda d: init_distributed("slurm"), ValueError, "not set: SLURM_PROCID, SLURM_NTASKS"),
    "torchrun without torchrun": (
        lambda d: train(tiny_config(d / "run"), launcher="pytorch"), ValueError,
        "needs the environment"),
    # folders
    "no root": (lambda d: ImageFolder(d / "nope"), FileNotFoundError, "nope does not exist"),
    "no split folder": (lambda d: ImageFolder(d / "flat", "val"), FileNotFoundError, "has no folder .*val"),
    "no class folders": (lambda d: ImageFolder(d / "flat"), FileNotFoundError, "no class folders"),
    "no images": (lambda d: ImageFolder(d / "hollow"), FileNotFoundError, "no images"),
    "class that training lacks": (lambda d: ImageFolder(d / "root", "val"), ValueError, "lacks: dog"),
    "empty image file": (lambda d: ImageFolder(d / "zero"), ImageError, "1 image files are empty"),
    "no image that works": (lambda d: ImageFolder(d / "bad", unreadable="skip"), ImageError, "none of 1 images"),
    "image that fails in training": (lambda d: ImageFolder(d / "bad")[0], ImageError, "0.png is not an image"),
    "unknown split": (lambda d: ImageFolder(d / "root", "extra"), ValueError, "split must be one of train, val"),
    "unknown handling": (lambda d: ImageFolder(d / "root", unreadable="x"), ValueError, "raise or skip"),
    "digits of a third split": (lambda d: build(DATASETS, "Digits", split="test"), ValueError, "train or val"),
    "digits shrunk": (lambda d: Digits(size=4), ValueError, "at least 8"),
    "repeats without shuffling": (lambda d: EpochSampler(range(5), repeats=3), ValueError, "repeats must be at"),
    "sampler without a step": (lambda d: EpochSampler(range(5), group=8), ValueError, "lower batch_size"),
    # images
    "no image": (lambda d: load_image(d / "nope.png"), FileNotFoundError, "no image file at"),
    "folder without images": (lambda d: find_images([d / "hollow"]), FileNotFoundError, "no images"),
    "pattern without matches": (
        lambda d: find_images([str(d / "*.jpg")]), FileNotFoundError,
        "no pattern that matches"),
    # checkpoints
    "no checkpoint": (lambda d: load_weights(net(), d / "nope.pth"), FileNotFoundError, "nope.pth"),
    "empty checkpoint": (lambda d: read_checkpoint(d / "empty.pth"), CheckpointError, "is empty"),
    "text as a checkpoint": (lambda d: read_checkpoint(d / "text.pth"), CheckpointError, "text.pth"),
    "truncated checkpoint": (lambda d: load_weights(net(), d / "cut.pth"), ValueError, "cut.pth"),
    "checkpoint with objects": (lambda d: read_checkpoint(d / "pickle.pth"), CheckpointError, "can't be read safely"),
    "checkpoint of a list": (lambda d: read_checkpoint(d / "list.pth"), CheckpointError, "holds a list"),
    "weights as a training checkpoint": (
        lambda d: read_training_checkpoint(d / "digits.pth"), CheckpointError, "no optimizer, param_schedulers"),
    "weights of another model": (lambda d: load_weights(net(), d / "other.pth"), CheckpointError, "does not fit"),
    "weights with a hole": (lambda d: load_weights(net(), d / "part.pth"), CheckpointError, "missing"),
    "weights for other classes": (
        lambda d: load_weights(net(7), d / "digits.pth"), CheckpointError,
        "no fitting head.fc"),
    "resuming from weights": (
        lambda d: train(tiny_config(d / "run"), resume=str(d / "digits.pth")),
        CheckpointError, "no training checkpoint"),
    "resuming from nothing": (
        lambda d: train(tiny_config(d / "run"), resume=str(d / "gone.pth")), FileNotFoundError, "no checkpoint at"),
    "testing another model": (
        lambda d: evaluate(tiny_config(d / "run"), d / "other.pth"), CheckpointError, "does not fit"),
    # conversion, prediction, benchmark
    "conversion to a zip": (
        lambda d: convert_file("dinat_test", d / "digits.pth", d / "x.zip"), ValueError,
        "must end in"),
    "conversion of nothing": (
        lambda d: convert_file("dinat_test", d / "gone.pth", d / "x.pth"), FileNotFoundError, "gone.pth"),
    "conversion for an unknown model": (
        lambda d: convert_file("dinat_test2", d / "digits.pth", d / "x.pth"),
        ValueError, "no model 'dinat_test2'; similar"),
    "device that isn't there": (
        lambda d: Predictor(DIGITS, d / "digits.pth", device="gpu"), ValueError,
        "cuda:0, got 'gpu'"),
    "no guess": (lambda d: Predictor(DIGITS, d / "digits.pth")([], topk=0), ValueError, "topk must be at least 1"),
    "stage that isn't there": (
        lambda d: Predictor(DIGITS, d / "digits.pth")([d / "root/train/cat/0.png"], stage=4),
        ValueError, "stage must be in -4..3"),
    "unknown dtype": (lambda d: benchmark_model("dinat_test", dtype="int8"), ValueError, "dtype must be one of"),
    "no batch": (lambda d: benchmark_model("dinat_test", batch_size=0), ValueError, "must be positive"),
    "unknown way": (lambda d: benchmark_model("dinat_test", how="fast"), ValueError, "how must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input(there, name):
    call, error, message = CASES[name]
    with pytest.raises(error, match=message):
        call(there)


def test_changed_batch_size_cannot_resume(tmp_path):
    train(tiny_config(tmp_path, train_cfg__max_epochs=1))
    with pytest.raises(CheckpointError, match="batch size, the data set or the number of ranks"):
        train(tiny_config(tmp_path, train_dataloader__batch_size=12), resume="auto")


def test_another_model_cannot_resume(tmp_path):
    train(tiny_config(tmp_path, train_cfg__max_epochs=1))
    with pytest.raises(CheckpointError, match="of another model"):
        train(tiny_config(tmp_path, model__model_args={"kernel_size": 5}), resume="auto")
