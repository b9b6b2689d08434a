"""Trains a classifier: `python tools/train.py CONFIG`.

On several devices: `torchrun --nproc-per-node N tools/train.py CONFIG --launcher pytorch`; see docs/distributed.md.
"""

import argparse

from visionattn.engine import load_config, parse_options
from visionattn.engine.cli import add_config_arguments, run_tool
from visionattn.engine.train import dry_run, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from the newest intact checkpoint in the work folder (also: auto), or from a checkpoint file",
    )
    parser.add_argument("--seed", type=int, help="seed of everything random")
    parser.add_argument(
        "--amp",
        nargs="?",
        const="bfloat16",
        choices=("bfloat16", "float16"),
        help="mixed precision (bfloat16 if no dtype is given)",
    )
    parser.add_argument("--fsdp", action="store_true", help="shard the model over the processes of the launcher")
    parser.add_argument("--dry-run", action="store_true", help="print the model and make one step, then stop")
    args = parser.parse_args()

    config = load_config(args.config, parse_options(args.cfg_options), args.work_dir)
    if args.dry_run:
        dry_run(config, args.seed, args.amp)
    else:
        train(config, args.resume, args.seed, args.launcher, args.amp, args.fsdp)


if __name__ == "__main__":
    run_tool(main)
