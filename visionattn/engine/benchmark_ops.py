"""Speed of operators beside their peers and beside what the hardware allows (the floor)."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from visionattn.engine.benchmark import DTYPES, release, time_median
from visionattn.engine.benchmark_suites import SUITES
from visionattn.engine.benchmark_suites.problem import Problem
from visionattn.engine.turns import turn

__all__ = ["SUITES", "Floor", "measure_case", "measure_floor"]


@dataclass(frozen=True)
class Floor:
    """What the device can do.

    Attributes:
        bandwidth: Bytes per second of a large device-to-device copy, read and written bytes counted.
        matmul: Operations per second of a large matrix product in the benchmark's dtype.
    """

    bandwidth: float
    matmul: float

    def seconds(self, case: Problem, element_size: int, training: bool) -> float:
        """The least time for a case: that of its bytes or of its operations, whichever is longer."""
        return max(case.bytes_moved(element_size, training) / self.bandwidth, case.flops(training) / self.matmul)


def measure_floor(device: torch.device, dtype: torch.dtype) -> Floor:
    """Measures copy bandwidth and matrix product rate on random data."""
    cuda = device.type == "cuda"
    source = torch.randn(2**29 if cuda else 2**25, device=device)
    target = torch.empty_like(source)
    copy = time_median(lambda: target.copy_(source), device, 0.5)
    side = 8192 if cuda else 1024
    a, b = (source[: side * side].view(side, side).to(dtype) for _ in range(2))
    product = time_median(lambda: a @ b, device, 0.5)
    return Floor(2 * source.nbytes / copy, 2 * side**3 / product)


def time_graph(run: Callable[[], Any], seconds: float) -> float:
    """Median device time of a call, replayed from a CUDA graph so that launches cost nothing.

    Starting a graph takes the device some microseconds: short calls share one, about a millisecond of them.
    """
    device = torch.device("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)

    def capture(calls: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        return graph

    calls = max(1, min(50, round(1e-3 / time_median(capture(1).replay, device, 0))))
    return time_median(capture(calls).replay, device, seconds) / calls


def time_launch(run: Callable[[], Any], seconds: float) -> float:
    """Median CPU time until a call on an idle CUDA device returns, its kernels still running or not."""
    times: List[float] = []
    with turn():
        stop = time.perf_counter() + seconds
        while len(times) < 5 or (time.perf_counter() < stop and len(times) < 200):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        torch.cuda.synchronize()
    return statistics.median(times)


def _measure(contestant: Any, device: torch.device, training: bool, seconds: float) -> Dict[str, Optional[float]]:
    leaves = [x.requires_grad_(training) for x in contestant.leaves()]

    def run() -> Any:
        out = contestant.forward()
        return torch.autograd.grad(out, leaves, contestant.grad) if training else out

    with torch.set_grad_enabled(training):
        if device.type != "cuda":
            return {"ms": 1e3 * time_median(run, device, seconds), "launch_us": None}
        return {"ms": 1e3 * time_graph(run, seconds), "launch_us": 1e6 * time_launch(run, seconds)}


def measure_case(
    case: Problem,
    floor: Floor,
    device: torch.device,
    dtype: str,
    contestants: Sequence[str] = ("ours",),
    training: Sequence[bool] = (False, True),
    seconds: float = 0.3,
) -> List[Dict[str, Any]]:
    """Times one case.

    Args:
        case: The problem.
        floor: Of the device, from `measure_floor`.
        device: Where to run.
        dtype: "float32", "bfloat16" or "float16".
        contestants: Of those that the case has, e.g. "ours" and "reference".
        training: False for a forward pass, True for forward and backward.
        seconds: Time for each median.

    Returns:
        One row per contestant and pass: `case, contestant, pass, ms` (median; None with an `error`), `launch_us` (CPU
        time of an eager call, CUDA only), `floor_ms`, `over_floor`, `goal`, and the case's own facts.

    Raises:
        ValueError: a contestant that the case does not have.
    """
    torch_dtype = DTYPES[dtype]
    makers = case.contestants()
    unknown = set(contestants) - set(makers)
    if unknown:
        raise ValueError(f"contestants must be of {', '.join(makers)}, got {', '.join(sorted(unknown))}")
    rows = []
    for name in contestants:
        for is_training in training:
            row: Dict[str, Any] = {"case": case.name, "contestant": name, **case.facts(name, is_training)}
            row["pass"] = "forward+backward" if is_training else "forward"
            row["floor_ms"] = 1e3 * floor.seconds(case, torch_dtype.itemsize, is_training)
            row["goal"] = case.goal[is_training]
            row.update(ms=None, launch_us=None, over_floor=None, error=None)
            try:
                row.update(_measure(makers[name](device, torch_dtype), device, is_training, seconds))
                row["over_floor"] = row["ms"] / row["floor_ms"]
            except (RuntimeError, NotImplementedError) as error:  # out of memory, or a peer that can't
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            rows.append(row)
            release(device)
    return rows
