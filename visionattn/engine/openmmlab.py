"""Training and evaluation of mmdetection's and mmsegmentation's configs, by the same commands as classification.

mmengine's own Runner runs them, with both frameworks' loops, hooks, data sets and metrics; here stands what has to
happen around it: operators without a compiler, data checked before the first step, checkpoints that are refused if they
don't fit, several processes on machines without a GPU.
"""

from __future__ import annotations

import importlib
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from PIL import Image
from torch import nn

from visionattn.downstream.openmmlab import enable_without_mmcv_ops, load_weights, mend_mmengine
from visionattn.engine import mmengine_compat
from visionattn.engine.coco import check_annotations

__all__ = ["OpenMMLabRunner", "build_model", "dry_run", "evaluate", "is_openmmlab", "resolve", "train"]

SCOPES = ("mmdet", "mmseg")
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def is_openmmlab(config: Mapping[str, Any]) -> bool:
    """Whether a config is mmdetection's or mmsegmentation's: their `default_scope` tells."""
    return config.get("default_scope") in SCOPES


def resolve(config: Config, data_root: Optional[str]) -> Config:
    """Makes a config's paths and types ready, in place.

    Args:
        config: As read from its file, overrides included.
        data_root: `data_root` as the file has it; where an override says otherwise, data sets and metrics follow.
    """
    if data_root is not None and config.data_root != data_root:
        for key in (*LOADERS, "val_evaluator", "test_evaluator"):
            if key in config:
                config[key] = _moved(config[key], data_root.rstrip("/"), config.data_root.rstrip("/"))
    for key in LOADERS:
        if key in config and config[key].get("num_workers", 0) == 0:  # torch refuses persistent workers without any
            config[key].update(persistent_workers=False)
    return config


def _moved(value: Any, old: str, new: str) -> Any:
    """`value` with every path below `old` below `new` instead."""
    if isinstance(value, dict):
        return ConfigDict({key: _moved(inner, old, new) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(inner, old, new) for inner in value)
    if isinstance(value, str) and (value.rstrip("/") == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


class OpenMMLabRunner(Runner):
    """mmengine's Runner, also on several processes without a GPU."""

    _count = itertools.count()

    @classmethod
    def from_cfg(cls, cfg: Config) -> OpenMMLabRunner:
        """Builds a runner from a resolved config; registers what its `default_scope` has."""
        prepare(cfg)
        # mmengine keeps loggers and visualizers by a name that only changes every second
        cfg.experiment_name = f"{Path(cfg.work_dir).name}_{next(cls._count)}"
        return super().from_cfg(cfg)

    def setup_env(self, env_cfg: Dict[str, Any]) -> None:
        mmengine_compat.init_distributed(self._launcher)
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: Optional[Dict[str, Any]], model: nn.Module) -> nn.Module:
        if not self.distributed or torch.cuda.is_available():
            return super().wrap_model(model_wrapper_cfg, model)
        from mmengine.model import MMDistributedDataParallel

        # synchronised batch norms exist on GPUs only, and so do DistributedDataParallel's device ids
        return MMDistributedDataParallel(module=revert_sync_batchnorm(model), broadcast_buffers=False)


def prepare(config: Config) -> None:
    """Readies the process for a config: operators, mended mmengine, and the framework's classes registered."""
    mend_mmengine()
    enable_without_mmcv_ops()
    scope = config.default_scope
    importlib.import_module(f"{scope}.utils").register_all_modules(init_default_scope=False)
    init_default_scope(scope)


def train(
    config: Config,
    resume: Any = None,
    seed: Optional[int] = None,
    launcher: str = "none",
    amp: Optional[str] = None,
    fsdp: bool = False,
) -> OpenMMLabRunner:
    """Trains as a resolved config says.

    Args:
        config: From `visionattn.engine.load_config`.
        resume: None or False starts anew; True or "auto" goes on from the newest checkpoint of the work folder; a path
            goes on from that file.
        seed: Overrides the config's seed.
        launcher: "none", "pytorch" under torchrun, or "slurm" under srun.
        amp: None for the config's precision, "bfloat16" or "float16".
        fsdp: Must be False: mmengine's checkpoints hold whole models.

    Raises:
        NotImplementedError: `fsdp`.
        FileNotFoundError, ValueError: the data is missing or wrong, see `check_data`; the config contradicts itself.
    """
    if fsdp:
        raise NotImplementedError("mmdetection's and mmsegmentation's models train as copies on every device, not fsdp")
    _apply_options(config, seed, launcher, amp)
    config.resume = bool(resume)
    if isinstance(resume, str) and resume != "auto":
        config.load_from = resume
    prepare(config)
    check_data(config, ("train_dataloader", "val_dataloader"))
    runner = OpenMMLabRunner.from_cfg(config)
    runner.train()
    return runner


def evaluate(config: Config, checkpoint: str, launcher: str = "none") -> Dict[str, float]:
    """Metrics of a checkpoint on the config's test data; the checkpoint must fit wholly.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unreadable or of another model; the data is wrong.
    """
    _apply_options(config, launcher=launcher)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config.pop(key, None)
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        config.pop(key, None)
    config.load_from, config.resume = None, False
    prepare(config)
    weights = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    check_data(config, ("test_dataloader",))
    runner = OpenMMLabRunner.from_cfg(config)
    load_weights(runner.model.module if runner.distributed else runner.model, weights)
    return {name: float(value) for name, value in runner.test().items()}


def build_model(config: Config, checkpoint: Optional[str] = None, device: str = "cpu") -> nn.Module:
    """The config's detector or segmenter in eval mode, with a checkpoint's weights.

    Its attributes `cfg` and `dataset_meta` are what `mmdet.apis.inference_detector` and `mmseg.apis.inference_model`
    ask for.
    """
    prepare(config)
    model = revert_sync_batchnorm(MODELS.build(config.model))
    meta = dict(DATASETS.build({**next(_datasets(config.test_dataloader.dataset)), "lazy_init": True}).metainfo)
    if checkpoint is not None:
        content = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
        load_weights(model, content)
        meta.update(content.get("meta", {}).get("dataset_meta") or {})
    model.cfg, model.dataset_meta = config, meta
    return model.to(device).eval()


def dry_run(config: Config, seed: Optional[int] = None, amp: Optional[str] = None) -> Dict[str, float]:
    """Builds everything, prints the model and its parameter groups, and makes one training step.

    Returns:
        `loss` and `seconds` of the step, `parameters` of the model.
    """
    _apply_options(config, seed, amp=amp)
    prepare(config)
    check_data(config, ("train_dataloader",))
    config.custom_hooks = None
    runner = OpenMMLabRunner.from_cfg(config)
    loop = runner.build_train_loop(runner._train_loop)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    wrapper.initialize_count_status(runner.model, 0, loop.max_iters)
    runner._init_model_weights()
    print(runner.model)
    parameters = sum(p.numel() for p in runner.model.parameters())
    print(f"\n{parameters:,} parameters in {len(wrapper.optimizer.param_groups)} groups")
    batch = next(iter(loop.dataloader))
    runner.model.train()
    start = time.perf_counter()
    losses = runner.model.train_step(batch, wrapper)
    seconds = time.perf_counter() - start
    shown = "  ".join(f"{name} {value.item():.4f}" for name, value in losses.items())
    print(f"one step of {len(loop.dataloader.dataset):,} images' training: {shown} in {seconds:.2f} s")
    return {"loss": losses["loss"].item(), "seconds": seconds, "parameters": parameters}


def _apply_options(
    config: Config, seed: Optional[int] = None, launcher: str = "none", amp: Optional[str] = None
) -> None:
    config.launcher = launcher
    if seed is not None:
        config.randomness = {**(config.get("randomness") or {}), "seed": seed}
    if amp is not None:
        kept = {key: value for key, value in config.optim_wrapper.items() if key not in ("type", "dtype", "loss_scale")}
        config.optim_wrapper = {**kept, "type": "PrecisionOptimWrapper", "amp": amp}


def check_data(config: Config, loaders: Sequence[str]) -> None:
    """Checks all data of some loaders before anything is built: files, boxes, masks, categories, numbers of classes.

    Of several processes only the first does; it stops the others by its error.

    Raises:
        FileNotFoundError: no annotation file or folder.
        ValueError: what `visionattn.engine.coco.check_annotations` finds, images without a class map or with one of
            another size or other classes, or a model with another number of classes than the data.
    """
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))):
        return
    for loader in loaders:
        for options in _datasets(config.get(loader, {}).get("dataset")):
            dataset = DATASETS.build({**options, "lazy_init": True})
            classes = dataset.metainfo.get("classes")
            if classes is not None:
                _check_class_counts(config.model, len(classes), loader)
            kinds = {kind.__name__ for kind in type(dataset).__mro__}
            if "CocoDataset" in kinds:
                masks = any(step.get("with_mask") for step in options["pipeline"])
                _check_coco(dataset.ann_file, dataset.data_prefix.get("img", ""), masks, classes)
            elif "BaseSegDataset" in kinds and not dataset.ann_file:
                _check_class_maps(dataset)


def _datasets(dataset: Optional[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The configs of data sets below wrappers such as RepeatDataset and ConcatDataset."""
    if dataset is None:
        return
    inner = [dataset["dataset"]] if "dataset" in dataset else dataset.get("datasets", [])
    if not inner:
        yield dataset
    for one in inner:
        yield from _datasets(one)


def _check_class_counts(model: Mapping[str, Any], expected: int, loader: str) -> None:
    for part in ("bbox_head", "roi_head", "decode_head", "auxiliary_head"):
        for count in _values(model.get(part), "num_classes"):
            if count != expected:
                raise ValueError(f"{loader} has {expected} classes, but model.{part} is built for num_classes={count}")


def _values(config: Any, key: str) -> Iterator[Any]:
    """Every value of `key`, at any depth."""
    if isinstance(config, dict):
        if key in config:
            yield config[key]
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for inner in config:
            yield from _values(inner, key)


def _check_coco(ann_file: str, images: str, masks: bool, classes: Optional[Sequence[str]]) -> None:
    names = check_annotations(ann_file, images, masks=masks).classes
    absent = [name for name in classes or () if name not in names]
    if absent:
        raise ValueError(f"{ann_file} has no category {', '.join(absent[:5])}; it has {', '.join(names[:5])}, ...")


def _check_class_maps(dataset: Any) -> None:
    """Every image of a segmentation set has a class map of its size, with classes that there are."""
    images, maps = (Path(dataset.data_prefix[key]) for key in ("img_path", "seg_map_path"))
    for folder in (images, maps):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
    names = sorted(str(path.relative_to(images)) for path in images.rglob(f"*{dataset.img_suffix}"))
    if not names:
        raise FileNotFoundError(f"no images *{dataset.img_suffix} in {images}")
    count = len(dataset.metainfo["classes"]) + dataset.reduce_zero_label

    def problem(name: str) -> Optional[str]:
        label = maps / (name[: -len(dataset.img_suffix)] + dataset.seg_map_suffix)
        if not label.is_file():
            return f"{label} is missing"
        try:
            with Image.open(images / name) as image, Image.open(label) as classes:
                if image.size != classes.size:
                    return f"{label} has {classes.size} pixels, its image {image.size}"
                if classes.mode not in ("L", "P"):
                    return f"{label} is no map of 8-bit classes, its mode is {classes.mode}"
                beyond = [value for value, pixels in enumerate(classes.histogram()) if pixels and count <= value < 255]
        except OSError as error:
            return f"{name} can't be read ({error})"
        return f"{label} has class {beyond[0]}, there are {count}" if beyond else None

    with ThreadPoolExecutor() as pool:
        problems = [found for found in pool.map(problem, names) if found is not None]
    if problems:
        raise ValueError(f"{len(problems)} of {len(names)} images can't be used: {'; '.join(problems[:3])}")
