"""Training and testing runs from a config."""

from __future__ import annotations

import time
from typing import Any, Dict, Optional, Union

import torch
from mmengine.config import Config

from visionattn.engine import openmmlab
from visionattn.engine.config import ConfigError
from visionattn.engine.optim import AMP_DTYPES
from visionattn.engine.runner import VisionRunner

__all__ = ["dry_run", "evaluate", "train"]

NO_HOOKS = dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"))


def train(
    config: Config,
    resume: Union[bool, str, None] = None,
    seed: Optional[int] = None,
    launcher: str = "none",
    amp: Optional[str] = None,
    fsdp: bool = False,
) -> VisionRunner:
    """Trains as a resolved config says.

    Args:
        config: From `visionattn.engine.load_config`.
        resume: None or False starts anew; True or "auto" goes on from the newest intact checkpoint in the work
            folder, or starts anew if there is none; a path goes on from that file.
        seed: Overrides the config's seed.
        launcher: "none", "pytorch" under torchrun, or "slurm" under srun.
        amp: Overrides the precision: "bfloat16" or "float16".
        fsdp: Shard the model over the ranks instead of copying it to each.

    Returns:
        The runner after training.
    """
    if openmmlab.is_openmmlab(config):
        return openmmlab.train(config, resume, seed, launcher, amp, fsdp)
    apply_options(config, seed, launcher, amp, fsdp)
    config.resume = bool(resume)
    config.load_from = resume if isinstance(resume, str) and resume != "auto" else None
    runner = VisionRunner.from_cfg(config)
    check_classes(runner.train_dataloader.dataset, config)
    runner.train()
    return runner


def evaluate(config: Config, checkpoint: str, launcher: str = "none") -> Dict[str, float]:
    """Evaluates a checkpoint's weights on the config's test data.

    Returns:
        Metrics by name.
    """
    if openmmlab.is_openmmlab(config):
        return openmmlab.evaluate(config, checkpoint, launcher)
    apply_options(config, launcher=launcher)
    for key in (
        "train_dataloader",
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
        "val_dataloader",
        "val_cfg",
        "val_evaluator",
    ):
        config.pop(key, None)
    config.default_hooks = {**NO_HOOKS, "logger": {"type": "RunLog"}}
    config.custom_hooks = None
    config.visualizer = None
    runner = VisionRunner.from_cfg(config)
    runner.load_checkpoint(checkpoint)
    check_classes(runner.test_dataloader.dataset, config)
    return runner.test()


def apply_options(
    config: Config,
    seed: Optional[int] = None,
    launcher: str = "none",
    amp: Optional[str] = None,
    fsdp: bool = False,
) -> None:
    """Writes command-line options into a config."""
    config.launcher = launcher
    if seed is not None:
        config.randomness = {**config.get("randomness", {}), "seed": seed}
    if amp is not None:
        if amp not in AMP_DTYPES:
            raise ConfigError(f"amp must be {' or '.join(AMP_DTYPES)}, got {amp!r}")
        config.optim_wrapper.amp = amp
    if fsdp:
        if launcher == "none":
            raise ConfigError("fsdp needs launcher pytorch or slurm, there is nothing to shard over in one process")
        config.model_wrapper_cfg = {"type": "FullyShard"}


def check_classes(dataset: Any, config: Config) -> None:
    """Raises ConfigError if a data set has labels that the model has no output for."""
    classes = len(dataset.metainfo["classes"])
    if classes > config.model.num_classes:
        raise ConfigError(f"the data set has {classes} classes, but model.num_classes is {config.model.num_classes}")


def dry_run(config: Config, seed: Optional[int] = None, amp: Optional[str] = None) -> Dict[str, float]:
    """Builds everything, prints the model and its parameter groups, and makes one training step without writing
    checkpoints.

    Returns:
        `loss` and `seconds` of the step, `parameters` of the model.
    """
    if openmmlab.is_openmmlab(config):
        return openmmlab.dry_run(config, seed, amp)
    apply_options(config, seed, amp=amp)
    config.default_hooks = NO_HOOKS
    config.custom_hooks = None
    config.visualizer = None
    runner = VisionRunner.from_cfg(config)
    print(runner.net)
    loop = runner.build_train_loop(runner._train_loop)
    check_classes(loop.dataloader.dataset, config)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    wrapper.initialize_count_status(runner.model, 0, loop.max_iters)
    parameters = sum(p.numel() for p in runner.net.parameters())
    print(f"\n{config.model.name}: {parameters:,} parameters in {len(wrapper.optimizer.param_groups)} groups")
    for group in wrapper.optimizer.param_groups:
        count = sum(p.numel() for p in group["params"])
        print(f"  {count:>12,} parameters  lr {group['lr']:g}  weight decay {group['weight_decay']:g}")
    batch = next(iter(loop.dataloader))
    shape = "x".join(map(str, (len(batch["inputs"]), *batch["inputs"][0].shape)))
    print(f"{len(loop.dataloader.dataset):,} training images, {len(loop.dataloader)} batches of {shape} an epoch")
    runner.model.train()
    start = time.perf_counter()
    loss = runner.model.train_step(batch, wrapper)["loss"].item()
    seconds = time.perf_counter() - start
    print(f"one step: loss {loss:.4f} in {seconds:.2f} s", end="")
    if torch.cuda.is_available():
        print(f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", end="")
    print()
    return {"loss": loss, "seconds": seconds, "parameters": parameters}
