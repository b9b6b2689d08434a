"""Speed and size of models, several side by side."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionattn.engine.classifier import create_net
from visionattn.engine.config import model_data_config
from visionattn.engine.devices import device_name, resolve_device
from visionattn.engine.turns import turn
from visionattn.utils.flops import count_macs

__all__ = ["HOW", "benchmark_model", "peak_memory", "release", "time_median"]

HOW = ("eager", "compiled", "cuda-graphs")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def time_median(run: Callable[[], Any], device: torch.device, seconds: float = 2.0, warmup: int = 3) -> float:
    """Median time of a call in seconds, the device's work included.

    Args:
        run: What to time.
        device: Where it runs; on CUDA each call is timed by events on the device.
        seconds: Repeat for about this long, at least 5 and at most 1000 times.
        warmup: Calls before.
    """
    for _ in range(warmup):
        run()
    time_once = _time_on_cuda if device.type == "cuda" else _time_on_cpu
    times: List[float] = []
    with turn():
        stop = time.perf_counter() + seconds
        while len(times) < 5 or (time.perf_counter() < stop and len(times) < 1000):
            times.append(time_once(run))
    return statistics.median(times)


def _time_on_cuda(run: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _time_on_cpu(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def peak_memory(run: Callable[[], Any], device: torch.device) -> Optional[float]:
    """Memory in MiB that a call takes at its peak on top of what was there before; None where that can't be told.

    On CUDA it is the allocator's; on a CPU the growth of the resident set (Linux only).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or memory freed earlier would be reused unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
        before = _status_kib("VmRSS")
        run()
        return max(0, _status_kib("VmHWM") - before) / 2**10
    except OSError:
        return None


def _status_kib(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise OSError(f"no {key} in /proc/self/status")


def benchmark_model(
    name: str,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 32,
    img_size: Optional[int] = None,
    training: bool = False,
    how: str = "eager",
    channels_last: bool = False,
    seconds: float = 2.0,
    latency: bool = True,
    model_args: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    """Measures one model in one setting.

    Args:
        name: Any model that timm knows, ours included.
        device: "cpu" or a CUDA device.
        dtype: "float32", or "bfloat16" or "float16" through autocast.
        batch_size: Images per step for throughput and memory.
        img_size: Height and width; the model's own by default.
        training: A training step (forward, loss, backward, fused AdamW) instead of a forward pass.
        how: "eager", "compiled" by `torch.compile`, or "cuda-graphs": compiled in its mode "reduce-overhead", which
            spares the CPU the launches.
        channels_last: Weights and images in channels-last memory format.
        seconds: Time for each median.
        latency: Also time a forward pass of a single image; a compiled model is compiled once more for it.
        model_args: Further arguments of the model.

    Returns:
        `model, mode, how, img_size, batch_size, device, dtype, params_m` (millions), `gmacs` (None if it can't be
        counted), `images_per_s, latency_ms` (None in training, or not asked for), `memory_mib` (None for CUDA graphs,
        which keep theirs from call to call), and `error` (None or "out of memory").

    Raises:
        ValueError: an unknown model, device or dtype, or a number out of range.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if how not in HOW:
        raise ValueError(f"how must be one of {', '.join(HOW)}, got {how!r}")
    if batch_size < 1 or seconds <= 0:
        raise ValueError(f"batch_size and seconds must be positive, got {batch_size} and {seconds}")
    target = resolve_device(device)
    size = img_size or model_data_config(name)["input_size"][-1]
    extra = dict(model_args or {})
    if img_size is not None and takes_img_size(name):
        extra["img_size"] = img_size
    net = create_net(name, **extra)
    row = {
        "model": name,
        "mode": "training" if training else "forward",
        "how": how,
        "img_size": size,
        "batch_size": batch_size,
        "device": device_name(target),
        "dtype": dtype,
        "params_m": sum(p.numel() for p in net.parameters()) / 1e6,
        "gmacs": macs_or_none(net, size),
        "images_per_s": None,
        "latency_ms": None,
        "memory_mib": None,
        "error": None,
    }
    net.to(target)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, size, size, device=target)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    _measure(row, net, images, DTYPES[dtype], training, seconds, latency and not training)
    del net, images
    release(target)
    return row


def _measure(
    row: Dict[str, Any],
    net: nn.Module,
    images: Tensor,
    dtype: torch.dtype,
    training: bool,
    seconds: float,
    latency: bool,
) -> None:
    """Fills in what is measured."""
    device = images.device
    try:
        step = (training_step if training else forward_step)(net, images, dtype, row["how"])
        row["images_per_s"] = len(images) / time_median(lambda: step(images), device, seconds)
        if row["how"] != "cuda-graphs":
            row["memory_mib"] = peak_memory(lambda: step(images), device)
        if latency:
            row["latency_ms"] = 1000 * time_median(lambda: step(images[:1]), device, seconds)
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"


def release(device: torch.device) -> None:
    """Gives back what a model took: the next one must find its memory, and torch.compile's count of recompilations."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _compile(net: nn.Module, how: str) -> Callable[[Tensor], Any]:
    if how == "eager":
        return net
    return torch.compile(net, mode="reduce-overhead" if how == "cuda-graphs" else None)


def forward_step(net: nn.Module, images: Tensor, dtype: torch.dtype, how: str) -> Callable[[Tensor], Any]:
    net.eval()
    run = _compile(net, how)

    @torch.inference_mode()
    def step(batch: Tensor) -> Tensor:
        with torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
            return run(batch)

    return step


def training_step(net: nn.Module, images: Tensor, dtype: torch.dtype, how: str) -> Callable[[Tensor], Any]:
    net.train()
    run = _compile(net, how)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)  # one launch, not hundreds of tensors in turn
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def step(batch: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(run(batch), labels[: len(batch)])
        loss.backward()
        optimizer.step()

    return step


def takes_img_size(name: str) -> bool:
    """Whether a model is bound to an image size given at construction."""
    try:
        create_net(name, img_size=64, device="meta")
    except (TypeError, AssertionError, ValueError):
        return False
    return True


def macs_or_none(net: nn.Module, size: int) -> Optional[float]:
    """Multiply-accumulates in 10^9; None for models that can't run on shapes alone."""
    try:
        return count_macs(net, size) / 1e9
    except Exception:  # any of timm's 1,300 models may fail on meta tensors in its own way
        return None
