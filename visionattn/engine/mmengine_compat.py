"""The few places where mmengine 0.10 doesn't fit today's stack, each with its reason, so that the rest of the engine
can forget them.

What needs no cure here, because the engine doesn't use it: mmengine's own checkpoint files hold pickled
`HistoryBuffer`s, which `torch.load(weights_only=True)` refuses (ours hold tensors and plain values only); `Config`
imports `pkg_resources`, which setuptools 82 dropped, for `_base_ = "package::file"` (our configs use relative paths);
`AmpOptimWrapper` refuses CPUs and `CheckpointHook` writes files in place (visionattn.engine.optim and
visionattn.engine.checkpoint replace them).
"""

from __future__ import annotations

import os
import warnings

import torch
from mmengine.dist import is_distributed
from torch import distributed

__all__ = ["init_distributed", "quiet_warnings"]


def init_distributed(launcher: str) -> None:
    """Joins the process group that torchrun describes in the environment: NCCL with GPUs, gloo without.

    mmengine's `init_dist` calls `torch.cuda.set_device` on machines without CUDA too, and takes NCCL unless told
    otherwise.

    Args:
        launcher: "none" (does nothing) or "pytorch".

    Raises:
        ValueError: an unknown launcher, or "pytorch" without torchrun's environment variables.
    """
    if launcher not in ("none", "pytorch"):
        raise ValueError(f"launcher must be none or pytorch, got {launcher!r}")
    if launcher == "none" or is_distributed():
        return
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise ValueError(
            f"launcher pytorch needs the environment of torchrun (torchrun --nproc-per-node N tools/train.py ...); "
            f"not set: {', '.join(missing)}"
        )
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")


def quiet_warnings() -> None:
    """Silences warnings of mmengine's that a user can do nothing about."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    warnings.filterwarnings("ignore", message="Setting .* environment variable for each process to be 1")
    # its schedulers count optimizer.step calls, which an accumulating or scaling optimizer wrapper rightly skips
    warnings.filterwarnings("ignore", message="Detected call of `scheduler.step\\(\\)` before `optimizer.step\\(\\)`")
