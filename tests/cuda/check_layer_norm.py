"""Checks the CUDA layer norm against float64, forward and backward: `python -m tests.cuda.check_layer_norm`."""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from visionattn import ops

CHANNELS = (4, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 768, 1024)
ROWS = (0, 1, 7, 63, 1000, 40_001)
DTYPES = (
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
)
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def error(actual, expected):
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def check(rows, channels, input_dtype, output_dtype):
    """Largest relative error of the output and the three gradients; infinite if two runs differ."""
    torch.manual_seed(rows + channels)
    x = (torch.randn(rows, channels, device="cuda") * 3 + 1).to(input_dtype).requires_grad_()
    weight = torch.randn(channels, device="cuda", requires_grad=True)
    bias = torch.randn(channels, device="cuda", requires_grad=True)
    grad = torch.randn(rows, channels, device="cuda").to(output_dtype)
    runs = []
    for _ in range(2):
        y = ops.layer_norm(x, weight, bias, 1e-5, output_dtype)
        assert y.dtype == output_dtype
        assert type(y.grad_fn).__name__ == "layer_normBackward", "the kernel was not used"
        runs.append((y, *torch.autograd.grad(y, (x, weight, bias), grad)))
    wide = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = F.layer_norm(wide[0], (channels,), *wide[1:], 1e-5)
    expected = (expected, *torch.autograd.grad(expected, wide, grad.double()))
    if not all(torch.equal(a, b) for a, b in zip(*runs)):
        return float("inf")
    return max(error(a, e) for a, e in zip(runs[0], expected)) if rows else 0.0


def run():
    """What every case gave: its sizes and dtypes, the largest error, and whether that is `ok`."""
    results = []
    for rows in ROWS:
        for channels in CHANNELS:
            for dtypes in DTYPES:
                low = next((d for d in dtypes if d != torch.float32), torch.float32)
                worst = check(rows, channels, *dtypes)
                case = dict(rows=rows, channels=channels, dtypes=[str(d) for d in dtypes], error=worst)
                results.append(dict(case, ok=worst <= TOLERANCE[low]))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    results = run()
    failures = [result for result in results if not result["ok"]]
    for failure in failures[:10]:
        print(failure)
    print(f"{len(results)} cases, {len(failures)} failures, worst {max(result['error'] for result in results):.1e}")
    if args.output:
        args.output.write_text(json.dumps(results))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
