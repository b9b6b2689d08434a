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
import re
import warnings
from typing import Dict, Mapping

import torch
from mmengine.dist import is_distributed
from torch import distributed

__all__ = ["LAUNCHERS", "init_distributed", "quiet_warnings", "slurm_environment"]


LAUNCHERS = ("none", "pytorch", "slurm")


def init_distributed(launcher: str) -> None:
    """Joins the process group that torchrun or srun describes in the environment: NCCL with GPUs, gloo without.

    mmengine's `init_dist` calls `torch.cuda.set_device` on machines without CUDA too, takes NCCL unless told otherwise,
    and needs slurm's `scontrol` in the path, which containers as a rule don't have.

    Args:
        launcher: "none" (does nothing), "pytorch" or "slurm".

    Raises:
        ValueError: an unknown launcher, or one whose environment variables are not set.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher must be none, pytorch or slurm, got {launcher!r}")
    if launcher == "none" or is_distributed():
        return
    if launcher == "slurm":
        os.environ.update(slurm_environment(os.environ))
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise ValueError(
            f"launcher pytorch needs the environment of torchrun (torchrun --nproc-per-node N tools/train.py ...); "
            f"not set: {', '.join(missing)}"
        )
    if torch.cuda.is_available():
        # srun --gpus-per-task shows each process its own GPU only, as number 0
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")


def slurm_environment(environment: Mapping[str, str]) -> Dict[str, str]:
    """torchrun's variables from those of a task of srun.

    `MASTER_ADDR` and `MASTER_PORT` stay where they are set; else the first host of the step serves, and a port that
    follows from the job's number, so that jobs that share a host don't meet.

    Raises:
        ValueError: variables of srun are not set.
    """
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST")
    missing = [name for name in names.values() if name not in environment]
    if missing or not (hosts or "MASTER_ADDR" in environment):
        raise ValueError(
            "launcher slurm needs the environment of srun (srun --ntasks-per-node N python tools/train.py ...); "
            f"not set: {', '.join(missing or ['SLURM_STEP_NODELIST'])}"
        )
    port = 20000 + int(environment.get("SLURM_JOB_ID", 0)) % 10000
    address = {
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(hosts),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(port),
    }
    return {**{name: environment[source] for name, source in names.items()}, **address}


def first_host(hosts: str) -> str:
    """The first of slurm's list of hosts, such as gpu01 of "gpu[01-04,07],node2"."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", re.match(r"(?:[^,[]|\[[^]]*\])*", hosts)[0])


def quiet_warnings() -> None:
    """Silences warnings of mmengine's that a user can do nothing about."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    warnings.filterwarnings("ignore", message="Setting .* environment variable for each process to be 1")
    # its schedulers count optimizer.step calls, which an accumulating or scaling optimizer wrapper rightly skips
    warnings.filterwarnings("ignore", message="Detected call of `scheduler.step\\(\\)` before `optimizer.step\\(\\)`")
