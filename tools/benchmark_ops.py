"""Measures operators beside their peers and the hardware's floor: `python tools/benchmark_ops.py --suite na`."""

import argparse
from dataclasses import replace
from pathlib import Path

from visionattn.engine.cli import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--suite",
        default="cpu",
        choices=("na", "linear", "conv", "cpu"),
        help="na, linear: tables of GPU shapes; cpu: small ones of neighborhood attention",
    )
    parser.add_argument("--device", help="cpu or cuda:0 (default: the GPU if there is one)")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--contestants", nargs="+", default=["ours"], help="ours, reference and the suite's own")
    parser.add_argument("--mode", nargs="+", default=["forward", "training"], choices=("forward", "training"))
    parser.add_argument("--no-rpb", action="store_true", help="without the relative positional bias")
    parser.add_argument("--cases", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each median")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads, one or several counts")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile side by side and measure in turn")
    parser.add_argument("--out", type=Path, help="folder for benchmark_ops.json and benchmark_ops.png")
    args = parser.parse_args()

    import torch
    from rich.progress import track
    from rich.table import Table

    from visionattn.engine.benchmark_ops import SUITES, measure_case, measure_floor
    from visionattn.engine.benchmark_report import write_report
    from visionattn.engine.devices import device_name, resolve_device
    from visionattn.engine.figures import draw_over_floor
    from visionattn.engine.tables import wide_console
    from visionattn.engine.turns import in_turns

    device = resolve_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cases = [case for case in SUITES[args.suite] if not args.cases or args.cases in case.name]
    if not cases:
        raise ValueError(f"no case of suite {args.suite} contains {args.cases!r}")
    if args.no_rpb:
        cases = [replace(case, rpb=False) if hasattr(case, "rpb") else case for case in cases]
    console = wide_console()
    rows = []
    devices = {}
    for threads in args.threads or [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        name = device_name(device)
        for dtype in args.dtype:
            floor = measure_floor(device, getattr(torch, dtype))
            devices[f"{name}, {dtype}"] = {
                "copy_tb_per_s": floor.bandwidth / 1e12,
                "matmul_tflop_per_s": floor.matmul / 1e12,
            }
            table = Table(
                "case", "pass", "by", "ms", "floor, ms", "over floor", "goal", "launch, us", title=f"{name}, {dtype}"
            )
            earlier = list(rows)
            passes = [mode == "training" for mode in args.mode]
            # By contestant: those that take about as long to prepare wait little for one another.
            calls = [
                (case, floor, device, dtype, [contestant], passes, args.seconds)
                for contestant in args.contestants
                for case in cases
            ]
            found = {}
            steps = in_turns(measure_case, calls, args.jobs)
            for position, measured in track(steps, "measuring", len(calls), console=console):
                found[position] = [{"device": name, "dtype": dtype, **row} for row in measured]
                by_case = sorted(found, key=lambda i: (i % len(cases), i))
                rows = [*earlier, *(row for i in by_case for row in found[i])]
                if args.out:
                    write_report(args.out / "benchmark_ops.json", rows, devices=devices)
            for row in rows[len(earlier) :]:
                numbers = [row[key] for key in ("ms", "floor_ms", "over_floor", "goal", "launch_us")]
                cells = ["" if x is None else f"{x:.3g}" for x in numbers]
                table.add_row(row["case"], row["pass"], row["contestant"], row["error"] or cells[0], *cells[1:])
            console.print(table)
    if args.out:
        draw_over_floor(rows, args.out / "benchmark_ops.png")


if __name__ == "__main__":
    run_tool(main)
