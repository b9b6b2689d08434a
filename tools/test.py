"""Evaluates a checkpoint: `python tools/test.py CONFIG CHECKPOINT`."""

import argparse
import json

from mmengine.dist import is_main_process

from visionattn.engine import load_config, parse_options
from visionattn.engine.checkpoint import atomic_write
from visionattn.engine.cli import add_config_arguments, run_tool
from visionattn.engine.train import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="weights: of this library, of the papers or of timm")
    parser.add_argument("--out", help="JSON file for the metrics")
    args = parser.parse_args()

    config = load_config(args.config, parse_options(args.cfg_options), args.work_dir)
    text = json.dumps(evaluate(config, args.checkpoint, args.launcher), indent=2)
    if not is_main_process():
        return
    print(text)
    if args.out:
        atomic_write(args.out, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    run_tool(main)
