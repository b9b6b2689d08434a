"""Devices by name."""

from __future__ import annotations

import platform

import torch

__all__ = ["device_name", "resolve_device"]


def resolve_device(device: str) -> torch.device:
    """A torch device that exists here.

    Raises:
        ValueError: no device of that name, or no CUDA.
    """
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be such as cpu or cuda:0, got {device!r}") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} asked for, but no CUDA device is available")
    return target


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
