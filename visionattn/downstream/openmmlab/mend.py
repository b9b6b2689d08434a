"""What keeps mmengine 0.10 from working on today's Python, setuptools and torch, mended while it runs."""

from __future__ import annotations

import importlib.util
import pkgutil
from pathlib import Path
from typing import Any, Dict, List

import mmengine.config.config as mmengine_config
import mmengine.config.utils as mmengine_config_utils
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from visionattn.checkpoint import load_checkpoint_file

__all__ = ["mend_mmengine"]

_indexed_config = mmengine_config_utils._get_external_cfg_path

# Names of distributions that config files use for packages of another name.
_MODULES = {"mmsegmentation": "mmseg", "mmdetection": "mmdet", "mmcv-full": "mmcv", "mmcv-lite": "mmcv"}


def mend_mmengine() -> None:
    """Mends three things, for the whole process; calling it again changes nothing.

    - `_base_ = "mmdet::..."` in a config: mmengine asks `pkg_resources`, which setuptools 82 dropped, and reads a
      hundred other files before it finds the one.
    - Checkpoints of mmengine's own: torch 2.6 and newer refuse their logged numbers (`HistoryBuffer`). These are
      allowed, and nothing else is: loading still runs no code from a file. Unreadable files get a clear error.
    - Python 3.14 has no `pkgutil.find_loader`, by which mmengine and mmcv look for compiled operators.
    """
    if importlib.util.find_spec("pkg_resources") is None:
        mmengine_config.is_installed = _is_installed
        mmengine_config.get_installed_path = _installed_path
    mmengine_config._get_external_cfg_path = _external_config
    CheckpointLoader.register_scheme(prefixes="", loader=_load_local, force=True)
    if not hasattr(pkgutil, "find_loader"):
        pkgutil.find_loader = importlib.util.find_spec


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(_MODULES.get(package, package)) is not None


def _installed_path(package: str) -> str:
    spec = importlib.util.find_spec(_MODULES.get(package, package))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {package} is not installed")
    return str(Path(spec.origin).parent)


def _external_config(package_path: str, name: str) -> str:
    """The file of a config that a package ships; one that its model index alone knows is left to mmengine."""
    path = Path(package_path, ".mim", "configs", name)
    return str(path) if path.is_file() else _indexed_config(package_path, name)


def _load_local(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """A checkpoint file of the local disk, on the CPU: whoever loads it copies it where it belongs."""
    with torch.serialization.safe_globals(_history_globals()):
        return load_checkpoint_file(Path(filename).expanduser())


def _statistic(owner: type, name: str) -> Any:
    """Stands in for `getattr` in files: a `HistoryBuffer` is saved with the names of its methods min, max, ..."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise ValueError(f"a checkpoint asks for attribute {name} of {owner}")
    return getattr(owner, name)


def _history_globals() -> List[Any]:
    """What the pickle of a `HistoryBuffer` names: itself, and two arrays of numbers, from either numpy."""
    multiarray = np._core.multiarray
    functions = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("_core", "core")
        for name in ("_reconstruct", "scalar")
    ]
    dtypes = [type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")]
    return [HistoryBuffer, np.ndarray, np.dtype, (_statistic, "builtins.getattr"), *functions, *dtypes]
