"""Loads the compiled libraries, and says which kernels there are."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path

import torch

from visionattn._version import __version__

_DIRECTORY = Path(__file__).parent / "lib"
_REMEDY = (
    "Reinstall visionattn with a C++ compiler (and nvcc for CUDA) on PATH, or set VISIONATTN_DISABLE_KERNELS=1 to "
    "silence this. visionattn.info() says more."
)


def _load() -> dict[str, str]:
    """Loads each library; maps the ones that are not usable to the reason."""
    if os.environ.get("VISIONATTN_DISABLE_KERNELS", "0") not in ("", "0"):
        return dict.fromkeys(("cpu", "cuda"), "switched off by VISIONATTN_DISABLE_KERNELS")
    missing = {}
    for device in ("cpu", "cuda"):
        path = _DIRECTORY / f"libvisionattn_{device}.so"
        if device == "cuda" and torch.version.cuda is None:
            missing[device] = "this torch has no CUDA"
        elif device == "cuda" and "cpu" in missing:
            missing[device] = "the CPU library, which declares the operators, is not there"
        elif not path.exists():
            missing[device] = f"{path} was not built"
        else:
            try:
                torch.ops.load_library(path)
            except OSError as error:
                missing[device] = str(error)
    return missing


_MISSING = _load()
_WARNED: set[str] = set()
MINIMUM_CAPABILITY = (8, 0)
_TOO_OLD: dict[torch.device, bool] = {}
HAS_OPERATORS = "cpu" not in _MISSING
_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
    "meta": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
}


def version_text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


@torch.compiler.assume_constant_result
def is_too_old(device: torch.device) -> bool:
    """Whether a CUDA device lacks what our kernels are made of; says so once."""
    if device not in _TOO_OLD:
        # Without a GPU there may still be tensors that only pretend to be on one.
        found = torch.cuda.get_device_capability(device) if torch.cuda.is_available() else MINIMUM_CAPABILITY
        _TOO_OLD[device] = found < MINIMUM_CAPABILITY
        if _TOO_OLD[device]:
            warnings.warn(
                f"visionattn runs its slower PyTorch reference path on {device}: its kernels need a GPU of compute "
                f"capability {version_text(MINIMUM_CAPABILITY)}, this one has {version_text(found)}",
                stacklevel=4,
            )
    return _TOO_OLD[device]


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the compiled operators run on `device` and `dtype`.

    Where a device that we have kernels for lacks its library, says so once and names the remedy.
    """
    kind = device.type
    if dtype not in _DTYPES.get(kind, ()):
        return False
    library = "cpu" if kind == "meta" else kind
    if library not in _MISSING:
        return kind != "cuda" or not is_too_old(device)
    if library not in _WARNED and "DISABLE_KERNELS" not in _MISSING[library] and not torch.compiler.is_compiling():
        _WARNED.add(library)
        warnings.warn(
            f"visionattn runs its slower PyTorch reference path on {library}: {_MISSING[library]}. {_REMEDY}",
            stacklevel=3,
        )
    return False


def info() -> dict[str, str]:
    """What a bug report needs: versions, libraries and device.

    Returns:
        Names and values, ready to print.
    """
    report = {
        "visionattn": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch CUDA": str(torch.version.cuda),
        "CUDA device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    for device in ("cpu", "cuda"):
        report[f"{device} kernels"] = f"missing: {_MISSING[device]}" if device in _MISSING else "loaded"
    if HAS_OPERATORS:
        report["cpu instruction set"] = torch.ops.visionattn.cpu_capability()
    return report
