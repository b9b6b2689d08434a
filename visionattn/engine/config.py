"""Reading mmengine configs, filling in what follows from the model, and checking them before anything is built."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import timm
from mmengine.config import Config, ConfigDict
from timm.data import resolve_data_config

import visionattn  # noqa: F401  registers our models with timm
from visionattn.downstream.openmmlab import mend_mmengine
from visionattn.engine import openmmlab

__all__ = ["ConfigError", "load_config", "model_data_config", "parse_options", "resolve_config"]

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
WITH_ROOT = ("ImageFolder", "CocoInstances", "SemanticFolder")  # data sets that `data_root` is for


class ConfigError(ValueError):
    """A config that can't be used; the message names the file or the key and what is wrong."""


def load_config(path: str, options: Optional[Mapping[str, Any]] = None, work_dir: Optional[str] = None) -> Config:
    """Reads a config file and resolves it; one of mmdetection or mmsegmentation by `visionattn.engine.openmmlab`.

    Args:
        path: Python config file.
        options: Overrides by dotted key, such as `{"train_cfg.max_epochs": 3}`.
        work_dir: Overrides the config's; `work_dirs/<file name>` if neither is given.

    Raises:
        FileNotFoundError: the file or one of its bases doesn't exist.
        ConfigError: a syntax error, an option for a key that can't exist, or a missing or contradictory setting.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no config file at {path}")
    if Path(path).suffix != ".py":
        raise ConfigError(f"config files are Python files, got {path}")
    mend_mmengine()  # for configs that build on those of other packages
    try:
        config = Config.fromfile(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config {path}: {error}") from error
    except Exception as error:  # a config is Python: anything can go wrong in it
        raise ConfigError(f"config {path} can't be read: {type(error).__name__}: {error}") from error
    for key in [key for key in config if key.startswith("_")]:
        config.pop(key)  # names that a config file uses for itself
    data_root = config.get("data_root")
    if options:
        try:
            config.merge_from_dict(dict(options))
        except (KeyError, TypeError, AssertionError, IndexError) as error:
            raise ConfigError(f"--cfg-options {', '.join(options)}: {error}") from error
    if work_dir is not None:
        config.work_dir = work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs", Path(path).stem))
    if openmmlab.is_openmmlab(config):
        return openmmlab.resolve(config, data_root)
    return resolve_config(config)


def parse_options(options: Sequence[str]) -> Dict[str, Any]:
    """Parses `key=value` arguments; values are Python literals where they parse as such, else text.

    Raises:
        ConfigError: an argument without `=` or with an empty key.
    """
    parsed = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise ConfigError(f"options are key=value, got {option!r}")
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key] = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    return parsed


def model_data_config(name: str, overrides: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """Input size, crop, interpolation, mean and std of a model, as arguments for `timm.data.create_transform`.

    Raises:
        ConfigError: timm doesn't know the model.
    """
    if not timm.is_model(name):
        raise ConfigError(f"timm and visionattn have no model {name!r}")
    known = timm.get_pretrained_cfg(name)  # None for other names of a model, such as dinat_l
    pretrained = known.to_dict() if known else timm.create_model(name, device="meta").pretrained_cfg
    config = resolve_data_config(dict(overrides or {}), pretrained_cfg=pretrained)
    return {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}


def resolve_config(config: Config) -> Config:
    """Fills in what follows from the rest, in place:

    - a classification data set's transform gets the model's data config (overridden by the top-level `data_config`),
    unless it sets a value itself; detectors and segmenters, whose data sets have `transforms`, normalise by themselves;
    - `data_root`, where given, becomes the root of the data sets that lie in folders;
    - the training sampler's `group` becomes the samples of one optimizer step;
    - metrics with an `out_dir` get the work folder.

    Raises:
        ConfigError: a missing section, an unknown model, or settings that contradict each other.
    """
    for key in ("model", *LOADERS, "train_cfg", "optim_wrapper"):
        if not isinstance(config.get(key), dict):
            raise ConfigError(f"config has no {key} section")
    for key in ("name", "num_classes"):
        if key not in config.model:
            raise ConfigError(f"config has no model.{key}")
    data_config = model_data_config(config.model.name, config.get("data_config"))
    for key in LOADERS:
        loader = config[key]
        dataset = loader.get("dataset")
        if not isinstance(dataset, dict) or not (
            isinstance(dataset.get("transform"), dict) or isinstance(dataset.get("transforms"), list)
        ):
            raise ConfigError(f"config has no {key}.dataset.transform section")
        batch_size = loader.get("batch_size")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"{key}.batch_size must be a positive integer, got {batch_size!r}")
        if loader.get("num_workers", 0) == 0:  # torch refuses both without workers
            loader.update(persistent_workers=False, prefetch_factor=None)
        if dataset.type in WITH_ROOT and config.get("data_root") is not None:
            dataset.root = config.data_root
        if "transform" in dataset:
            training = key == "train_dataloader"
            dataset.transform = ConfigDict({**data_config, **dataset.transform, "is_training": training})
    if config.train_cfg.get("max_epochs", 0) < 1:
        raise ConfigError(f"train_cfg.max_epochs must be at least 1, got {config.train_cfg.get('max_epochs')!r}")
    batch_size = config.train_dataloader.batch_size
    if config.model.get("mixup") is not None and batch_size % 2:
        raise ConfigError(f"mixup pairs samples, so train_dataloader.batch_size must be even, got {batch_size}")
    config.train_dataloader.sampler.group = batch_size * config.optim_wrapper.get("accumulative_counts", 1)
    for evaluator in ("val_evaluator", "test_evaluator"):
        entries: List[Any] = config[evaluator] if isinstance(config[evaluator], (list, tuple)) else [config[evaluator]]
        for entry in entries:
            if entry.get("type") == "ConfusionMatrix":
                entry.setdefault("out_dir", config.work_dir)
    return config
