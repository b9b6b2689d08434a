"""Measures models side by side: `python tools/benchmark.py dinat_tiny convnext_tiny swin_tiny_patch4_window7_224`."""

import argparse
import itertools
from pathlib import Path

import torch
from rich.progress import track

from visionattn.engine.benchmark import HOW, benchmark_model
from visionattn.engine.benchmark_report import write_report
from visionattn.engine.cli import run_tool
from visionattn.engine.figures import draw_models
from visionattn.engine.tables import measured_table, wide_console
from visionattn.engine.turns import in_turns

COLUMNS = {
    "model": "model",
    "mode": "mode",
    "how": "how",
    "img_size": "size",
    "batch_size": "batch",
    "params_m": "params, M",
    "gmacs": "GMACs",
    "images_per_s": "images/s",
    "latency_ms": "latency, ms",
    "memory_mib": "memory, MiB",
}
DECIMALS = {"params_m": 2, "gmacs": 3, "latency_ms": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names that timm knows, ours included")
    parser.add_argument("--device", help="cpu or cuda:0 (default: the GPU if there is one)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch-size", type=int, default=32, help="images for throughput and memory, not latency")
    parser.add_argument("--img-size", type=int, help="height and width (default: each model's own)")
    parser.add_argument(
        "--mode", nargs="+", default=["forward"], choices=("forward", "training"), help="what is measured"
    )
    parser.add_argument("--compile", nargs="+", default=["eager"], choices=HOW, help="how it is run")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each median")
    parser.add_argument(
        "--latency", action=argparse.BooleanOptionalAction, default=True, help="also time single images (forward)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile side by side and measure in turn")
    parser.add_argument("--out", type=Path, help="folder for benchmark.json and benchmark.png")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    console = wide_console()
    # Alike next to each other: processes that prepare side by side are ready at about the same time.
    settings = list(itertools.product(args.compile, args.mode, args.models))
    calls = [
        (
            name,
            device,
            args.dtype,
            args.batch_size,
            args.img_size,
            mode == "training",
            how,
            args.channels_last,
            args.seconds,
            args.latency,
        )
        for how, mode, name in settings
    ]
    found = {}
    for position, row in track(in_turns(benchmark_model, calls, args.jobs), "measuring", len(calls), console=console):
        found[position] = row
        rows = sorted((found[i] for i in sorted(found)), key=lambda row: args.models.index(row["model"]))
        if args.out:
            write_report(args.out / "benchmark.json", rows)
    console.print(measured_table(rows, COLUMNS, DECIMALS))
    if args.out:
        title = f"{rows[0]['device']}, {args.dtype}, batch {args.batch_size}"
        draw_models(rows, args.out / "benchmark.png", title)


if __name__ == "__main__":
    run_tool(main)
