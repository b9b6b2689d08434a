"""Exports a backbone's feature pyramid, or a classifier: `python tools/export.py MODEL --format onnx --out FILE`.

What is written needs nothing of this library; it was loaded again and compared with the model.
"""

import argparse

from visionattn.engine import parse_options
from visionattn.engine.cli import run_tool
from visionattn.engine.export import FORMATS, export_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a timm model such as dinat_tiny")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="torch: a program for torch.export.load")
    parser.add_argument("--out", help="file to write (default: MODEL.onnx or MODEL.pt2)")
    parser.add_argument("--checkpoint", help="weights: of this library, of the papers or of timm (default: random)")
    parser.add_argument("--classifier", action="store_true", help="logits instead of the maps of the stages")
    parser.add_argument("--num-classes", type=int, help="classes of a classifier's checkpoint")
    parser.add_argument("--out-indices", type=int, nargs="+", metavar="STAGE", help="stages of the pyramid, from 0")
    parser.add_argument("--img-size", type=int, nargs="+", metavar="PIXELS", help="height and width, or one for both")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dynamic-batch", action="store_true", help="take any number of images")
    parser.add_argument("--dynamic-size", action="store_true", help="take images of other sizes, where the model can")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument(
        "--model-args", nargs="+", default=[], metavar="KEY=VALUE", help="of the model, such as dilations=coco"
    )
    args = parser.parse_args()

    options = parse_options(args.model_args)
    if args.num_classes is not None:
        options["num_classes"] = args.num_classes
    size = args.img_size[0] if args.img_size and len(args.img_size) == 1 else args.img_size
    report = export_model(
        args.model,
        args.out or args.model + FORMATS[args.format],
        args.format,
        size,
        args.batch_size,
        args.dynamic_batch,
        args.dynamic_size,
        args.overwrite,
        pyramid=not args.classifier,
        checkpoint=args.checkpoint,
        out_indices=args.out_indices,
        **options,
    )
    print(f"{report.path}: {report.path.stat().st_size / 2**20:.1f} MiB")
    for name, shape in report.outputs.items():
        print(f"  {name:<10} {', '.join(map(str, shape))}")
    for shape in report.checked:
        print(f"as the model with images {'x'.join(map(str, shape))}")
    for shape in report.refused:
        print(f"not for images {'x'.join(map(str, shape))}")
    print(f"largest difference {report.error:.1e} of the output's norm")


if __name__ == "__main__":
    run_tool(main)
