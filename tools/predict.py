"""Classifies images: `python tools/predict.py CONFIG_OR_MODEL CHECKPOINT IMAGE_FOLDER_OR_GLOB... --out DIR`."""

import argparse
import sys
from pathlib import Path

from visionattn.engine import parse_options
from visionattn.engine.cli import run_tool
from visionattn.engine.images import find_images
from visionattn.engine.predict import Predictor, print_table, write_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="config file, or the name of a timm model such as dinat_tiny")
    parser.add_argument("checkpoint", help="weights: of this library, of the papers or of timm")
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns")
    parser.add_argument("--out", help="folder for predictions.json and predictions.png")
    parser.add_argument("--topk", type=int, default=5, help="guesses per image")
    parser.add_argument(
        "--stage",
        type=int,
        help="stage whose attention is drawn, -1 is the last (default: 0, or none where there is none)",
    )
    parser.add_argument("--max-drawn", type=int, default=24, help="images in the picture")
    parser.add_argument("--num-classes", type=int, help="classes of the checkpoint, with a model name")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the GPU if there is one)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()

    paths = find_images(args.images)
    predictor = Predictor(args.model, args.checkpoint, parse_options(args.cfg_options), args.device, args.num_classes)
    stage = predictor.first_attention_stage() if args.stage is None else args.stage
    results = predictor(paths, args.topk, stage, args.batch_size)
    print_table(results)
    if args.out:
        write_results(results, Path(args.out), args.max_drawn)
    bad = [result for result in results if result["error"]]
    if bad:
        print(f"{len(bad)} of {len(results)} images could not be read", file=sys.stderr)
        sys.exit(1 if len(bad) < len(results) else 2)


if __name__ == "__main__":
    run_tool(main)
