"""Converts released weights: `python tools/convert_checkpoint.py dinat_tiny official.pth out.safetensors`."""

import argparse

from visionattn.engine.cli import run_tool
from visionattn.engine.convert import convert_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name of the model, such as dinat_tiny")
    parser.add_argument("source", help="the papers' file, a Hugging Face port's, a dense model's, or one of ours")
    parser.add_argument("target", help="file to write: .safetensors or .pth")
    parser.add_argument("--num-classes", type=int, help="classes of the checkpoint, if not the model's usual number")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    args = parser.parse_args()

    report = convert_file(args.model, args.source, args.target, args.num_classes, args.overwrite)
    print(f"{args.target}: {report.tensors} tensors, {report.parameters:,} parameters")
    if report.missing:
        print(f"{len(report.missing)} tensors of the model were not in the source: {', '.join(report.missing)}")
    for warning in report.warnings:
        print(warning)


if __name__ == "__main__":
    run_tool(main)
