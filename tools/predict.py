"""Runs a model on images: `python tools/predict.py CONFIG_OR_MODEL CHECKPOINT IMAGE_FOLDER_OR_GLOB... --out DIR`.

A config says what the model does: name classes, detect, or segment. A model name means a classifier.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List

from mmengine.device import get_device
from rich.console import Console
from rich.progress import track

from visionattn.engine import load_config, parse_options
from visionattn.engine.cli import run_tool
from visionattn.engine.dense_models import is_dense, load_dense_model
from visionattn.engine.dense_predict import predict_files, print_summary
from visionattn.engine.devices import resolve_device
from visionattn.engine.images import find_images
from visionattn.engine.predict import Predictor, print_table, write_results


def classify(args: argparse.Namespace, paths: List[Path]) -> List[Dict[str, Any]]:
    predictor = Predictor(args.model, args.checkpoint, parse_options(args.cfg_options), args.device, args.num_classes)
    stage = predictor.first_attention_stage() if args.stage is None else args.stage
    results = predictor(paths, args.topk, stage, args.batch_size or 32)
    print_table(results)
    if args.out:
        write_results(results, Path(args.out), args.max_drawn)
    return results


def detect_or_segment(config: Any, args: argparse.Namespace, paths: List[Path]) -> List[Dict[str, Any]]:
    if not args.out:
        raise ValueError("detectors and segmenters need --out, a folder for what they find")
    window, stride = (value[0] if value and len(value) == 1 else value for value in (args.window, args.stride))
    if stride is not None and window is None:
        raise ValueError("--stride needs --window")
    device = resolve_device(args.device or get_device())
    model = load_dense_model(config, args.checkpoint, device, window, stride, args.batch_size or 1)
    steps = predict_files(model, paths, Path(args.out), args.threshold)
    rows = list(track(steps, "images", len(paths), console=Console(stderr=True)))
    print_summary(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="config file, or the name of a timm model such as dinat_tiny")
    parser.add_argument("checkpoint", help="weights: of this library, of the papers or of timm")
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns")
    parser.add_argument("--out", help="folder for predictions.json and pictures")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the GPU if there is one)")
    parser.add_argument("--batch-size", type=int, help="images, or a segmenter's windows, at a time (default: 32, 1)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    group = parser.add_argument_group("classifiers")
    group.add_argument("--topk", type=int, default=5, help="guesses per image")
    group.add_argument(
        "--stage",
        type=int,
        help="stage whose attention is drawn, -1 is the last (default: 0, or none where there is none)",
    )
    group.add_argument("--max-drawn", type=int, default=24, help="images in the picture")
    group.add_argument("--num-classes", type=int, help="classes of the checkpoint, with a model name")
    group = parser.add_argument_group("detectors and segmenters")
    group.add_argument("--threshold", type=float, default=0.3, help="least score of the detections in pictures")
    group.add_argument(
        "--window", type=int, nargs="+", metavar="PIXELS", help="go over large images in windows: height and width"
    )
    group.add_argument(
        "--stride", type=int, nargs="+", metavar="PIXELS", help="from a window to the next (default: 2/3 of it)"
    )
    args = parser.parse_args()

    paths = find_images(args.images)
    config = load_config(args.model, parse_options(args.cfg_options)) if args.model.endswith(".py") else None
    if config is not None and is_dense(config):
        results = detect_or_segment(config, args, paths)
    else:
        results = classify(args, paths)
    bad = [result for result in results if result["error"]]
    if bad:
        print(f"{len(bad)} of {len(results)} images could not be read", file=sys.stderr)
        sys.exit(1 if len(bad) < len(results) else 2)


if __name__ == "__main__":
    run_tool(main)
