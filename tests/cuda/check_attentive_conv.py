"""Checks the Triton kernels of attentive convolution, in one go: against the float64 reference on random problems of
every size and layout, in three dtypes; the same bits on two runs; every output written.

    python -m tests.cuda.check_attentive_conv [--cases 24]
    TRITON_INTERPRET=1 python -m tests.cuda.check_attentive_conv --device cpu --cases 4   # without a GPU

The exit status is 0 if every check passed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from tests.cuda.check_neighborhood import Report, poisoned_memory
from visionattn import ops
from visionattn.ops.attentive_conv import ACTIVATIONS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice of channels": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "slice of channels last": lambda x: torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[
        :, x.shape[1] :
    ],
    "rows and columns swapped": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "off alignment": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "expanded": lambda x: x[:, :, :1, :1].expand(x.shape),
}
OPERATORS = {
    "dynamic_depthwise_conv": lambda t, case, backend: ops.dynamic_depthwise_conv(
        t["value"], t["kernels"], backend=backend
    ),
    "band_pool": lambda t, case, backend: ops.band_pool(t["value"], case["bands"], backend=backend),
    "attentive_conv": lambda t, case, backend: ops.attentive_conv(
        *(t[name] for name in ("value", "context", "weight", "bias", "difference")), case["activation"], backend=backend
    ),
}
ARGUMENTS = {
    "dynamic_depthwise_conv": ("value", "kernels"),
    "band_pool": ("value",),
    "attentive_conv": ("value", "context", "weight", "bias", "difference"),
}


def random_case(seed: int, largest: int) -> dict:
    draw = random.Random(seed)
    operator = [*OPERATORS][seed % len(OPERATORS)]
    # the gradient of a single channel's difference is one number, which may all but cancel
    channels = draw.choice((3, 8, 16, 20, 70) if operator == "attentive_conv" else (1, 3, 8, 16, 20, 70))
    return {
        "operator": operator,
        "shape": (draw.randint(1, 3), channels, draw.randint(1, largest), draw.randint(1, largest)),
        "side": 3,
        "bands": draw.choice((1, 4, 9, 25)),
        "activation": draw.choice(ACTIVATIONS),
        "layout": draw.choice([*LAYOUTS]),
        "grad_layout": draw.choice([*LAYOUTS]),
        "wide_kernels": draw.random() < 0.5,
        "seed": seed,
    }


def inputs(case: dict, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(case["seed"])
    batch, channels, *_ = case["shape"]
    side = case["side"]
    tensors = {
        "value": torch.randn(case["shape"]).to(device, dtype),
        "kernels": torch.randn(batch, channels, side, side).to(
            device, torch.float32 if case["wide_kernels"] else dtype
        ),
        "context": torch.randn(batch, channels, side**2).to(device, dtype),
        "weight": torch.randn(side**2, side**2).to(device) / side,
        "bias": torch.randn(side**2).to(device),
        "difference": torch.randn(channels).to(device),
    }
    return {name: tensors[name] for name in ARGUMENTS[case["operator"]]}


def results(case: dict, tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    used = {**leaves, "value": LAYOUTS[case["layout"]](leaves["value"])}
    out = OPERATORS[case["operator"]](used, case, backend)
    torch.manual_seed(case["seed"] + 1)
    grad = torch.randn(out.shape).to(out.device, torch.bfloat16).to(out.dtype)
    if out.dim() == 4:
        grad = LAYOUTS[case["grad_layout"]](grad)
    grads = torch.autograd.grad(out, [*leaves.values()], grad)
    return {"out": out.detach(), **{f"grad_{name}": g for name, g in zip(leaves, grads)}}


def check_case(report: Report, case: dict, device: str, dtype: torch.dtype) -> None:
    tensors = inputs(case, device, dtype)
    expected = results(case, {name: x.double() for name, x in tensors.items()}, "reference")
    with poisoned_memory():
        first, second = (results(case, tensors, "triton") for _ in range(2))
    report.compare(case["operator"], dtype, first, expected, str(case))
    report.same_bits(first, second, str(case))


def run(cases: int = 24, device: str = "cuda", seconds: float = 75.0) -> Report:
    """Checks problems in turn until `seconds` have passed: most of the time goes to compiling kernels."""
    report = Report()
    stop = time.monotonic() + seconds
    for seed in range(cases):
        if time.monotonic() > stop:
            break
        case = random_case(seed, 70 if device == "cuda" else 9)
        dtype = DTYPES[seed // len(OPERATORS) % len(DTYPES)] if device == "cuda" else torch.float32
        try:
            check_case(report, case, device, dtype)
        except Exception as error:  # whatever a compiler raises
            report.failures.append(f"{case}: {type(error).__name__}: {error}")
    report.require(len(report.counts) == len(OPERATORS), f"only {[*report.counts]} were checked in {seconds} s")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=24, help="random problems")
    parser.add_argument("--output", type=Path, help="JSON file for the largest errors")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    return run(options.cases, options.device).finish(options.output)


if __name__ == "__main__":
    sys.exit(main())
