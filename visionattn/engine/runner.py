"""mmengine's Runner and epoch loop, with exact resume and atomic checkpoints."""

from __future__ import annotations

import copy
import functools
import itertools
import platform
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import mmengine
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import master_only
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import visionattn
from visionattn.engine import checkpoint as files
from visionattn.engine import mmengine_compat
from visionattn.engine.hooks import mean_over_ranks
from visionattn.engine.seeding import mix_seed, seed_step

__all__ = ["EpochLoop", "VisionRunner"]


@LOOPS.register_module()
class EpochLoop(EpochBasedTrainLoop):
    """Training epochs that can be resumed at any iteration; needs visionattn's EpochSampler.

    Calls the hooks' `after_epoch(runner)` once an epoch and its validation are done.
    """

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
            if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
                self.runner.val_loop.run()
            self.runner.call_hook("after_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        done = self._iter - self._epoch * len(self.dataloader)
        sampler = self.dataloader.sampler
        sampler.seed, sampler.epoch, sampler.start = self.runner.seed, self._epoch, done * self.dataloader.batch_size
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        mean_over_ranks(self.runner.net.buffers())
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        seed_step(mix_seed(self.runner.seed, self._iter, self.runner.rank))
        super().run_iter(idx, data_batch)


@RUNNERS.register_module()
class VisionRunner(Runner):
    """mmengine's Runner whose checkpoints are those of visionattn.engine.checkpoint.

    `cfg.model_wrapper_cfg` chooses the parallelism on several ranks: DistributedDataParallel with its arguments by
    default, `dict(type="FullyShard")` for fully sharded data parallelism (parameters sharded block by block).
    `cfg.sync_bn` lets batch norms take their statistics over all ranks, on GPUs.
    """

    _count = itertools.count()

    @classmethod
    def from_cfg(cls, cfg: Config) -> VisionRunner:
        """Builds a runner from a resolved config, whose parts must not be shared with an earlier run's.

        mmengine keeps loggers and visualizers by a name that only changes every second.
        """
        cfg = copy.deepcopy(cfg)
        cfg.experiment_name = f"{Path(cfg.work_dir).name}_{next(cls._count)}"
        return super().from_cfg(cfg)

    @property
    def net(self) -> nn.Module:
        """The network below the classifier, detector or segmenter and its wrappers."""
        return (self.model.module if is_model_wrapper(self.model) else self.model).net

    @functools.cached_property
    def config_text(self) -> str:
        """The config as a Python file; formatting it takes a third of a second."""
        return self.cfg.pretty_text

    @master_only
    def dump_config(self) -> None:
        """Writes the whole config into the work folder, from which the run can be repeated."""
        path = Path(self.work_dir, "config.py")
        files.atomic_write(path, lambda file: file.write(self.config_text.encode()))

    @property
    def _log_dir(self) -> str:
        return self._work_dir

    @_log_dir.setter
    def _log_dir(self, value: str) -> None:
        """mmengine wants a new folder for every start; here a run and its resumes share the work folder."""

    def setup_env(self, env_cfg: Dict[str, Any]) -> None:
        mmengine_compat.init_distributed(self._launcher)
        super().setup_env(env_cfg)

    def build_logger(self, log_level: str = "INFO", log_file: Optional[str] = None, **kwargs: Any):
        return super().build_logger(log_level, log_file or str(Path(self.work_dir, "run.log")), **kwargs)

    def _log_env(self, env_cfg: Dict[str, Any]) -> None:
        device = (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
        )
        versions = "  ".join(f"{name} {version}" for name, version in library_versions().items())
        self.logger.info(f"{versions}  on {device}, {self.world_size} ranks, seed {self.seed}")

    def get_hooks_info(self) -> str:
        return ", ".join(type(hook).__name__ for hook in self._hooks)

    def wrap_model(self, model_wrapper_cfg: Optional[Mapping[str, Any]], model: nn.Module) -> nn.Module:
        model = model.to(get_device())
        options = dict(model_wrapper_cfg or {})
        kind = options.pop("type", "MMDistributedDataParallel")
        if kind not in ("MMDistributedDataParallel", "FullyShard"):
            raise ValueError(f"model_wrapper_cfg.type must be MMDistributedDataParallel or FullyShard, got {kind!r}")
        if not self.distributed:
            return model
        if self.cfg.get("sync_bn"):
            model = convert_sync_batchnorm(model)
        if kind == "FullyShard":
            return shard_by_block(model, self.world_size, **options)
        device_ids = [torch.cuda.current_device()] if torch.cuda.is_available() else None
        return MMDistributedDataParallel(module=model, device_ids=device_ids, **options)

    def _init_model_weights(self) -> None:
        """Nothing: the model is initialised by its constructor, from the same seed on every rank."""

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: Optional[Mapping[str, Any]] = None) -> None:
        """Scales the learning rates by images per step over `auto_scale_lr.base_batch_size`, where that is enabled.

        mmengine's own forgets gradient accumulation.
        """
        if not (auto_scale_lr or {}).get("enable"):
            return
        images = self._train_dataloader["batch_size"] * self.world_size * optim_wrapper.accumulative_counts
        factor = images / auto_scale_lr["base_batch_size"]
        self.logger.info(f"{images} images per optimizer step: learning rates times {factor:g}")
        for group in optim_wrapper.optimizer.param_groups:
            group["lr"] *= factor

    def training_state(self, epoch: int, iteration: int, best: Optional[float] = None) -> Dict[str, Any]:
        """Everything that training needs to go on from here, as whole tensors on the CPU. All ranks must call it."""
        classifier = self.cfg.model
        state = {
            "state_dict": dict(self.net.state_dict()),
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in self.param_schedulers or []],
            "meta": {
                "epoch": epoch,
                "iter": iteration,
                "iters_per_epoch": len(self.train_dataloader),
                "seed": self.seed,
                "best": best,
                "model": {"name": classifier.name, "num_classes": classifier.num_classes},
                "classes": list(self.train_dataloader.dataset.metainfo["classes"]),
                "config": self.config_text,
                "versions": library_versions(),
            },
        }
        self.call_hook("before_save_checkpoint", checkpoint=state)
        return files.full_tensors(state)

    def load_or_resume(self) -> None:
        """Resumes from `load_from`, or from the newest intact checkpoint of the work folder; else starts anew."""
        if self._has_loaded or not self._resume:
            return
        self._has_loaded = True
        if self._load_from is not None:
            self.resume(self._load_from)
            return
        found = files.newest_intact_checkpoint(self.work_dir)
        if found is None:
            self.logger.info(f"nothing to resume in {self.work_dir}, starting anew")
        else:
            self._resume_from(*found)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._resume_from(filename, files.read_training_checkpoint(filename))

    def _resume_from(self, filename: Any, checkpoint: Dict[str, Any]) -> None:
        meta = checkpoint["meta"]
        length = len(self.train_dataloader)
        if meta["iters_per_epoch"] != length:
            raise files.CheckpointError(
                f"{filename} is of a run with {meta['iters_per_epoch']} iterations an epoch, this one has {length}: "
                "the batch size, the data set or the number of ranks has changed"
            )
        if meta["seed"] != self.seed:
            self.logger.warning(f"going on with the checkpoint's seed {meta['seed']} instead of {self.seed}")
            self._seed = meta["seed"]
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        files.copy_weights(self.net, checkpoint["state_dict"])
        self.optim_wrapper.load_state_dict(
            files.optimizer_state_like(checkpoint["optimizer"], self.optim_wrapper.optimizer)
        )
        for scheduler, state in zip(self.param_schedulers or [], checkpoint["param_schedulers"]):
            scheduler.load_state_dict(state)
        self.train_loop._epoch, self.train_loop._iter = meta["epoch"], meta["iter"]
        self.logger.info(f"resumed from {filename}: {meta['epoch']} epochs, {meta['iter']} iterations done")

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Loads weights for evaluation, strictly."""
        files.load_weights(self.net, filename)
        self._has_loaded = True


def library_versions() -> Dict[str, str]:
    """Versions that a report should name."""
    import timm

    return {
        "visionattn": visionattn.__version__,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "mmengine": mmengine.__version__,
        "python": platform.python_version(),
    }


def shard_by_block(model: nn.Module, world_size: int, **options: Any) -> nn.Module:
    """Shards a model's parameters, gradients and optimizer state over all ranks, one unit per block (FSDP2)."""
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    options.setdefault("mesh", init_device_mesh(device_type, (world_size,)))
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] == "blocks":
            for block in module.children():
                fully_shard(block, **options)
    return fully_shard(model, **options)
