"""Speed of neighborhood attention beside its peers and beside what the hardware allows (the floor)."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visionattn import ops
from visionattn.engine.benchmark import DTYPES, time_median
from visionattn.ops.reference.neighborhood import windows

__all__ = ["SUITES", "Case", "Floor", "measure_case", "measure_floor"]


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        label: Where it comes from.
        batch: Batch size.
        spatial: Map.
        heads: Attention heads.
        head_dim: Channels per head.
        kernel_size: Window per axis.
        dilation: On every axis.
        rpb: With the relative positional bias and its gradient.
        goal: Times of forward, and of forward with backward, over the floor that we want to reach.
        natten_ms: The same of NATTEN 0.21.7's Hopper kernels on an H200 (without bias), for comparison.
    """

    label: str
    batch: int
    spatial: Tuple[int, ...]
    heads: int
    head_dim: int
    kernel_size: Tuple[int, ...]
    dilation: int = 1
    rpb: bool = True
    goal: Tuple[Optional[float], Optional[float]] = (2.5, 3.5)
    natten_ms: Tuple[Optional[float], Optional[float]] = (None, None)

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.spatial))
        sizes = self.kernel_size[:1] if len(set(self.kernel_size)) == 1 else self.kernel_size
        kernel = "x".join(map(str, sizes))
        gap = f" d{self.dilation}" if self.dilation > 1 else ""
        return f"{self.label}: {self.batch}x{size}, {self.heads}x{self.head_dim}, k{kernel}{gap}"

    @property
    def tokens(self) -> int:
        return math.prod(self.spatial)

    def tensor_bytes(self, element_size: int) -> int:
        """Size of one of query, key, value and output."""
        return self.batch * self.tokens * self.heads * self.head_dim * element_size

    def flops(self) -> float:
        """Floating-point operations of a forward pass."""
        return 4.0 * self.batch * self.heads * self.tokens * math.prod(self.kernel_size) * self.head_dim


def _case_2d(label: str, batch: int, side: Any, heads: int, dim: int, kernel: int, dilation: int, **rest: Any) -> Case:
    spatial = side if isinstance(side, tuple) else (side, side)
    return Case(label, batch, spatial, heads, dim, (kernel, kernel), dilation, **rest)


NA_CASES = (
    _case_2d("DiNAT-T stage 1", 128, 56, 2, 32, 7, 1, natten_ms=(0.837, 3.33)),
    _case_2d("DiNAT-T stage 1", 128, 56, 2, 32, 7, 8, natten_ms=(0.774, 3.33)),
    _case_2d("DiNAT-T stage 2", 128, 28, 4, 32, 7, 1, natten_ms=(0.257, 1.34)),
    _case_2d("DiNAT-T stage 2", 128, 28, 4, 32, 7, 4, natten_ms=(0.257, 1.34)),
    _case_2d("DiNAT-T stage 3", 128, 14, 8, 32, 7, 1, natten_ms=(0.121, 0.572)),
    _case_2d("DiNAT-T stage 3", 128, 14, 8, 32, 7, 2, natten_ms=(0.104, 0.626)),
    _case_2d("DiNAT-T stage 4", 128, 7, 16, 32, 7, 1, goal=(3, 4)),
    _case_2d("DiNAT-L stage 1", 64, 56, 6, 32, 7, 1, natten_ms=(0.904, 4.05)),
    _case_2d("DiNAT-L stage 1", 64, 56, 6, 32, 7, 8, natten_ms=(0.904, 4.05)),
    _case_2d("DiNAT-L stage 3", 64, 14, 24, 32, 7, 1, natten_ms=(0.168, 0.818)),
    _case_2d("DiNAT-L stage 3", 64, 14, 24, 32, 7, 2, natten_ms=(0.168, 0.818)),
    _case_2d("DiNAT-L 384", 16, 96, 6, 32, 11, 1, goal=(3.5, 5), natten_ms=(0.679, 2.95)),
    _case_2d("DiNAT-L 384", 16, 96, 6, 32, 11, 8, goal=(3.5, 5), natten_ms=(0.679, 2.95)),
    _case_2d("detection", 2, (200, 304), 6, 32, 7, 1, goal=(3, 4), natten_ms=(0.609, 2.65)),
    _case_2d("detection", 2, (200, 304), 6, 32, 7, 28, goal=(3, 4), natten_ms=(0.609, 2.65)),
    _case_2d("ViT-like", 8, 64, 12, 64, 13, 1, rpb=False, goal=(4, 6), natten_ms=(0.413, 1.62)),
    _case_2d("FLUX 4k", 1, 256, 24, 128, 80, 1, rpb=False, goal=(2.7, 3.5), natten_ms=(17.6, 79.5)),
    Case("Hunyuan 3-D", 1, (30, 48, 80), 24, 128, (18, 24, 24), rpb=False, goal=(4, 5), natten_ms=(75.7, None)),
)
CPU_CASES = (
    _case_2d("DiNAT stage 1", 8, 56, 4, 32, 7, 1, goal=(None, None)),
    _case_2d("DiNAT stage 1", 8, 56, 4, 32, 7, 8, goal=(None, None)),
    _case_2d("DiNAT stage 3", 8, 14, 8, 32, 7, 2, goal=(None, None)),
)
SUITES = {"na": NA_CASES, "cpu": CPU_CASES}


@dataclass(frozen=True)
class Floor:
    """What the device can do.

    Attributes:
        bandwidth: Bytes per second of a large device-to-device copy, read and written bytes counted.
        matmul: Operations per second of a large matrix product in the benchmark's dtype.
    """

    bandwidth: float
    matmul: float

    def seconds(self, case: Case, element_size: int, training: bool) -> float:
        """The least time for a case: query, key, value and output moved once forward, 12 such tensors with backward."""
        moved = case.tensor_bytes(element_size) * (12 if training else 4)
        return max(moved / self.bandwidth, case.flops() * (3.5 if training else 1) / self.matmul)


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
    """Median device time of a call, replayed from a CUDA graph so that launches cost nothing."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return time_median(graph.replay, torch.device("cuda"), seconds)


def time_launch(run: Callable[[], Any], seconds: float) -> float:
    """Median CPU time until a call on an idle CUDA device returns, its kernels still running or not."""
    times: List[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < stop and len(times) < 200):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(times)


class Ours:
    """visionattn's operator on slices of a packed projection, by any of its backends."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype, backend: str = "auto"):
        shape = (case.batch, *case.spatial, 3, case.heads, case.head_dim)
        self.qkv = torch.randn(shape, device=device, dtype=dtype)
        self.rpb = None
        if case.rpb:
            self.rpb = torch.randn(case.heads, *(2 * k - 1 for k in case.kernel_size), device=device)
        self.options = dict(kernel_size=case.kernel_size, dilation=case.dilation, backend=backend)
        self.grad = torch.randn((case.batch, *case.spatial, case.heads, case.head_dim), device=device, dtype=dtype)

    def leaves(self) -> List[Tensor]:
        return [self.qkv] if self.rpb is None else [self.qkv, self.rpb]

    def forward(self) -> Tensor:
        return ops.na_qkv(self.qkv, rpb=self.rpb, **self.options)


class Dense:
    """Full self-attention over the map through SDPA: what a window saves is the difference. No bias."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype):
        shape = (case.batch, case.heads, case.tokens, case.head_dim)
        self.tensors = [torch.randn(shape, device=device, dtype=dtype) for _ in range(3)]
        self.grad = torch.randn(shape, device=device, dtype=dtype)

    def leaves(self) -> List[Tensor]:
        return self.tensors

    def forward(self) -> Tensor:
        return F.scaled_dot_product_attention(*self.tensors)


class Flex(Dense):
    """FlexAttention with the neighborhood as a block mask, compiled. No bias."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        super().__init__(case, device, dtype)
        axes = []
        stride = 1
        for length, kernel in reversed(list(zip(case.spatial, case.kernel_size))):
            table = windows([length], [kernel], [1], [case.dilation], [False], device)
            allowed = torch.zeros(length, length, dtype=torch.bool, device=device)
            allowed.scatter_(1, table.index, True)
            axes.append((stride, length, allowed))
            stride *= length

        def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            result = None
            for step, length, allowed in axes:
                here = allowed[query // step % length, key // step % length]
                result = here if result is None else result & here
            return result

        self.mask = create_block_mask(mask, None, None, case.tokens, case.tokens, device=device, _compile=True)
        self.function = torch.compile(flex_attention, dynamic=False)

    def forward(self) -> Tensor:
        return self.function(*self.tensors, block_mask=self.mask)


def _contestants(case: Case, names: Sequence[str], device: torch.device, dtype: torch.dtype) -> Dict[str, Callable]:
    makers = {
        "ours": lambda: Ours(case, device, dtype),
        "reference": lambda: Ours(case, device, dtype, backend="reference"),
        "sdpa": lambda: Dense(case, device, dtype),
        "flex": lambda: Flex(case, device, dtype),
    }
    unknown = set(names) - set(makers)
    if unknown:
        raise ValueError(f"contestants must be of {', '.join(makers)}, got {', '.join(sorted(unknown))}")
    return {name: makers[name] for name in names}


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
    case: Case,
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
        contestants: Any of "ours", "reference", "sdpa" (dense) and "flex".
        training: False for a forward pass, True for forward and backward.
        seconds: Time for each median.

    Returns:
        One row per contestant and pass: `case, contestant, pass, ms` (median; None with an `error`), `launch_us` (CPU
        time of an eager call, CUDA only), `floor_ms`, `over_floor`, `goal` and `natten_ms`.
    """
    torch_dtype = DTYPES[dtype]
    rows = []
    for name, make in _contestants(case, contestants, device, torch_dtype).items():
        for is_training in training:
            row: Dict[str, Any] = {"case": case.name, "contestant": name, "rpb": case.rpb and name != "flex"}
            row["pass"] = "forward+backward" if is_training else "forward"
            row["floor_ms"] = 1e3 * floor.seconds(case, torch_dtype.itemsize, is_training)
            row["goal"], row["natten_ms"] = case.goal[is_training], case.natten_ms[is_training]
            row.update(ms=None, launch_us=None, over_floor=None, error=None)
            try:
                row.update(_measure(make(), device, is_training, seconds))
                row["over_floor"] = row["ms"] / row["floor_ms"]
            except (RuntimeError, NotImplementedError) as error:  # out of memory, or a peer that can't
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            rows.append(row)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows
