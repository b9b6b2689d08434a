"""Checkpoint files: written so that a kill at any moment leaves intact ones, readable with `weights_only=True`.

A training checkpoint is a dict of tensors and plain values:
  `state_dict`         the weights to evaluate (the EMA's where there is one), under the timm model's own names
  `train_state_dict`   the weights being trained, where they differ (EMA)
  `optimizer`, `param_schedulers`
  `meta`               epoch, iter, seed, best score, model, classes, config text, versions
`best.pth` holds `state_dict` and `meta` only. `last.pth` is a symbolic link to the newest training checkpoint.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from visionattn.checkpoint import convert_checkpoint, load_checkpoint_file

__all__ = [
    "CheckpointError",
    "atomic_link",
    "atomic_save",
    "atomic_write",
    "load_weights",
    "newest_intact_checkpoint",
    "read_checkpoint",
    "training_checkpoints",
]

LAST = "last.pth"
TEMPORARY = ".tmp-"  # prefix of files being written; leftovers of a kill are recognised by it
PROGRESS = re.compile(r"iter_(\d+)\.pth")


class CheckpointError(ValueError):
    """A checkpoint file that can't be used; the message names the file and the reason."""


def atomic_write(path: Union[str, os.PathLike], write: Callable[[Any], None]) -> None:
    """Writes a file that is either complete under its name or not there: temporary name, fsync, rename.

    Args:
        path: The file; an existing one is replaced at the very end.
        write: Called with the binary file to fill. When it raises, nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def atomic_save(value: Any, path: Union[str, os.PathLike]) -> None:
    """`torch.save` through `atomic_write`."""
    atomic_write(path, lambda file: torch.save(value, file))


def atomic_link(path: Union[str, os.PathLike], target: str) -> None:
    """Makes `path` a symbolic link to its sibling `target`, replacing what was there in one step."""
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_checkpoint(path: Union[str, os.PathLike]) -> Dict[str, Any]:
    """Reads a checkpoint file onto the CPU, without running any code from it.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: empty, truncated or foreign files, and those that hold more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes)")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is truncated, corrupt or no checkpoint: {first_line(error)}") from error
    except Exception as error:  # pickle.UnpicklingError and whatever a foreign pickle provokes
        raise CheckpointError(f"{path} can't be read safely: {first_line(error)}") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, expected a dict")
    return checkpoint


def first_line(error: Exception) -> str:
    """The first line of an error's text; torch's go on for pages."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def training_checkpoints(folder: Union[str, os.PathLike]) -> List[Path]:
    """Training checkpoints in a work folder, the newest last."""
    found = [
        (int(match[1]), path) for path in Path(folder).glob("iter_*.pth") if (match := PROGRESS.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def newest_intact_checkpoint(folder: Union[str, os.PathLike]) -> Optional[Tuple[Path, Dict[str, Any]]]:
    """The newest training checkpoint of a work folder that can be read, with its contents; None if there is none."""
    for path in reversed(training_checkpoints(folder)):
        try:
            return path, read_training_checkpoint(path)
        except CheckpointError:
            continue
    return None


def read_training_checkpoint(path: Union[str, os.PathLike]) -> Dict[str, Any]:
    """`read_checkpoint`, and a check that training can go on from it."""
    checkpoint = read_checkpoint(path)
    missing = [key for key in ("state_dict", "optimizer", "param_schedulers", "meta") if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path} is no training checkpoint (no {', '.join(missing)}); model.checkpoint starts from its weights"
        )
    return checkpoint


def load_weights(net: nn.Module, path: Union[str, os.PathLike], allow_new_head: bool = False) -> Dict[str, Any]:
    """Loads a weights file of ours, of the papers or of timm into a timm model, strictly.

    Args:
        net: The model.
        path: `.pth` or `.safetensors`.
        allow_new_head: Keep the model's own classifier where the file has none or one for other classes.

    Returns:
        The file's `meta` dict if it is one of our checkpoints, else an empty one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file can't be read or doesn't fit the model; the message lists what is missing, unexpected or
            of another shape.
    """
    content = load_checkpoint_file(path)
    own = net.state_dict()
    weights = content.get("state_dict", content)
    if not same_tensors(weights, own):
        try:
            weights = convert_checkpoint(content, net)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error
    if allow_new_head:
        weights = {**{name: value for name, value in own.items() if is_head(net, name)}, **weights}
    missing = [name for name in own if name not in weights]
    if missing:
        raise CheckpointError(f"{path} has no fitting {', '.join(missing[:5])} ({len(missing)} of {len(own)} tensors)")
    net.load_state_dict(weights)
    meta = content.get("meta")
    return meta if isinstance(meta, dict) else {}


def same_tensors(weights: Any, own: Dict[str, Tensor]) -> bool:
    """Whether a mapping holds tensors of exactly the names and shapes of a state dict."""
    return (
        isinstance(weights, dict)
        and weights.keys() == own.keys()
        and all(isinstance(value, Tensor) and value.shape == own[name].shape for name, value in weights.items())
    )


def is_head(net: nn.Module, name: str) -> bool:
    """Whether a state-dict name belongs to the final classifier."""
    classifier = getattr(net, "pretrained_cfg", {}).get("classifier", "head.fc")
    names = classifier if isinstance(classifier, (list, tuple)) else (classifier,)
    return any(name.startswith(f"{entry}.") for entry in names)


def full_tensors(value: Any) -> Any:
    """Copies nested tensors to the CPU, gathering sharded ones (so all ranks must call it)."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: full_tensors(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(full_tensors(entry) for entry in value)
    return value


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Distributes a whole tensor as `like` is, or moves it to its device if that isn't sharded."""
    value = value.to(like.device)
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value


@torch.no_grad()
def copy_weights(net: nn.Module, state_dict: Dict[str, Tensor]) -> None:
    """Copies a complete state dict of whole tensors into a model that may be sharded.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own = net.state_dict()
    if not same_tensors(state_dict, own):
        different = sorted(own.keys() ^ state_dict.keys())
        different = different or [name for name in own if own[name].shape != state_dict[name].shape]
        raise CheckpointError(
            f"the checkpoint is of another model: {len(different)} tensors differ, such as {different[0]}"
        )
    for name, value in state_dict.items():
        own[name].copy_(shard_like(value, own[name]))


def optimizer_state_like(state: Dict[str, Any], optimizer: torch.optim.Optimizer) -> Dict[str, Any]:
    """An optimizer's state of whole tensors, sharded as its parameters are."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    sharded = {
        index: {k: shard_like(v, params[index]) if isinstance(v, Tensor) and v.ndim else v for k, v in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": sharded}
