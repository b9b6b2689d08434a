"""Every recipe parses, builds its model, and says what the papers say."""

import pytest
import timm
from PIL import Image
from timm.data import create_transform

import visionattn
from tests.engine.helpers import CONFIGS
from visionattn.engine.classifier import create_net
from visionattn.engine.config import load_config, model_data_config, parse_options

RECIPES = sorted(CONFIGS.glob("classification/*/*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path):
    config = load_config(str(path))
    model, train = config.model, config.train_dataloader
    net = create_net(model.name, num_classes=model.num_classes, device="meta", **model.get("model_args", {}))
    assert net.num_classes == model.num_classes
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        transform = config[key].dataset.transform
        assert transform.is_training == (key == "train_dataloader")
        create_transform(**transform)
    assert train.sampler.group == train.batch_size * config.optim_wrapper.get("accumulative_counts", 1)
    assert config.param_scheduler[-1].end in (config.train_cfg.max_epochs, config.train_cfg.max_epochs - 10)
    assert config.work_dir.endswith(path.stem)
    assert not [key for key in config if key.startswith("_")]


def test_every_variant_has_a_recipe():
    families = [getattr(visionattn.models, family) for family in visionattn.models.__all__]
    names = {name for family in families for name in family.VARIANTS if not name.endswith("_test")}
    assert names <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nat/nat_small", {"drop_path": 0.3, "lr": 1e-3, "decay": 0.05, "epochs": 310, "size": 224, "crop": 0.875}),
        ("dinat/dinat_base", {"drop_path": 0.5, "lr": 1e-3, "decay": 0.05, "epochs": 310, "size": 224, "crop": 0.875}),
        (
            "dinat/dinat_large_21k",
            {"drop_path": 0.2, "lr": 1e-3, "decay": 0.01, "epochs": 90, "size": 224, "crop": 0.875},
        ),
        (
            "dinat/dinat_large_384",
            {"drop_path": 0.35, "lr": 5e-5, "decay": 1e-10, "epochs": 30, "size": 384, "crop": 1.0},
        ),
        (
            "dinat/dinat_s_large_384",
            {"drop_path": 0.35, "lr": 5e-5, "decay": 1e-5, "epochs": 30, "size": 384, "crop": 1.0},
        ),
        ("rala/ravlt_b", {"drop_path": 0.4, "lr": 1e-3, "decay": 0.05, "epochs": 300, "size": 224, "crop": 0.875}),
        ("mala/mala_l", {"drop_path": 0.55, "lr": 1e-3, "decay": 0.05, "epochs": 300, "size": 224, "crop": 0.875}),
        ("l2vit/l2vit_base", {"drop_path": 0.3, "lr": 4e-3, "decay": 0.05, "epochs": 300, "size": 224, "crop": 0.875}),
        (
            "l2vit/l2vit_base_384",
            {"drop_path": 0.2, "lr": 4e-5, "decay": 1e-8, "epochs": 30, "size": 384, "crop": 1.0},
        ),
        ("van/van_b3", {"drop_path": 0.2, "lr": 1e-3, "decay": 0.05, "epochs": 310, "size": 224, "crop": 0.9}),
        ("van/van_b6", {"drop_path": 0.3, "lr": 5e-5, "decay": 1e-8, "epochs": 30, "size": 224, "crop": 0.875}),
        ("attnet/attnet_s", {"drop_path": 0.05, "lr": 4e-3, "decay": 0.025, "epochs": 310, "size": 224, "crop": 0.875}),
        (
            "mambaout/mambaout_base",
            {"drop_path": 0.6, "lr": 4e-3, "decay": 0.05, "epochs": 310, "size": 224, "crop": 1.0},
        ),
        ("nat/vitrpb_base", {"drop_path": 0.4, "lr": 1e-3, "decay": 0.05, "epochs": 310, "size": 224, "crop": 0.875}),
    ],
)
def test_published_settings(name, expected):
    config = load_config(str(CONFIGS / "classification" / f"{name}.py"))
    optimizer = config.optim_wrapper.optimizer
    found = {
        "drop_path": config.model.model_args.drop_path_rate,
        "lr": optimizer.lr,
        "decay": optimizer.weight_decay,
        "epochs": config.train_cfg.max_epochs,
        "size": config.test_dataloader.dataset.transform.input_size[-1],
        "crop": config.test_dataloader.dataset.transform.crop_pct,
    }
    assert found == expected


def test_options_override(tmp_path):
    options = parse_options(["train_cfg.max_epochs=2", "data_root=/data", "model.name=nat_test", "x.y=TRUE"])
    assert options == {"train_cfg.max_epochs": 2, "data_root": "/data", "model.name": "nat_test", "x.y": True}
    config = load_config(str(CONFIGS / "classification/nat/nat_tiny.py"), options, str(tmp_path))
    assert config.train_cfg.max_epochs == 2
    assert config.train_dataloader.dataset.root == config.val_dataloader.dataset.root == "/data"
    assert config.work_dir == str(tmp_path)


def test_data_config_is_the_models():
    assert model_data_config("dinat_large_384")["input_size"] == (3, 384, 384)
    net = timm.create_model("test_convnext")
    expected = timm.data.resolve_model_data_config(net)
    found = model_data_config("test_convnext")
    assert found == {key: expected[key] for key in found}
    image = Image.new("RGB", (300, 200))
    assert create_transform(**found)(image).shape == expected["input_size"]
