"""Measures training steps of Mask R-CNN and UPerNet: `python tools/benchmark_dense.py dinat_tiny van_b2`."""

import argparse
import itertools
from pathlib import Path

import torch
from rich.progress import track

from visionattn.engine.benchmark_dense import TASKS, benchmark_step
from visionattn.engine.benchmark_report import write_report
from visionattn.engine.cli import run_tool
from visionattn.engine.figures import draw_bars
from visionattn.engine.tables import measured_table, wide_console

COLUMNS = {
    "task": "task",
    "model": "backbone",
    "dilations": "dilations",
    "img_size": "size",
    "batch_size": "batch",
    "params_m": "params, M",
    "step_ms": "training step, ms",
    "images_per_s": "images/s",
    "memory_mib": "memory, MiB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="backbones that timm knows, ours included")
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--device", help="cpu or cuda:0 (default: the GPU if there is one)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch-size", type=int, default=0, help="images (default: 2 for detection, else 16)")
    parser.add_argument("--size", type=int, nargs=2, default=(), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each median")
    parser.add_argument("--out", type=Path, help="folder for benchmark_dense.json and benchmark_dense.png")
    args = parser.parse_args()

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    console = wide_console()
    settings = list(itertools.product(args.task, args.models))
    rows = []
    for task, name in track(settings, "measuring", console=console):
        rows.append(benchmark_step(task, name, device, args.dtype, args.batch_size, args.size, args.seconds))
        if args.out:
            write_report(args.out / "benchmark_dense.json", rows)
    console.print(measured_table(rows, COLUMNS))
    if args.out:
        shown = {key: COLUMNS[key] for key in ("step_ms", "images_per_s", "memory_mib")}
        draw_bars(rows, shown, args.out / "benchmark_dense.png", f"Training, {rows[0]['device']}, {args.dtype}")


if __name__ == "__main__":
    run_tool(main)
