"""Makes a data set of handwritten digits on photographs: `python tools/make_digits_coco.py data/digits_coco`.

Instances in COCO format and classes in ADE20K's, for detection and segmentation; nothing is downloaded. The defaults
take seconds; `--size 640 --digits 3 14 --scale 0.06 0.3` makes scenes of a usual size.
"""

import argparse
import time

from rich.progress import track

from visionattn.engine.cli import run_tool
from visionattn.engine.digit_scenes import DigitScenes, write_digit_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder to make")
    parser.add_argument("--train", type=int, default=800, help="training scenes")
    parser.add_argument("--val", type=int, default=100, help="validation scenes")
    parser.add_argument("--size", type=int, default=160, help="height and width in pixels")
    parser.add_argument("--digits", type=int, nargs=2, default=(2, 5), metavar=("LEAST", "MOST"), help="per scene")
    parser.add_argument(
        "--scale", type=float, nargs=2, default=(0.3, 0.55), metavar=("LEAST", "MOST"), help="share of a scene's height"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    args = parser.parse_args()

    start = time.time()
    scenes = DigitScenes(args.size, tuple(args.digits), tuple(args.scale), args.seed)
    counts = {"training": args.train, "validation": args.val}
    steps = write_digit_scenes(args.folder, scenes, counts, args.overwrite, args.jobs)
    for _ in track(steps, "making scenes", args.train + args.val):
        pass
    print(f"{args.folder}: {args.train} + {args.val} scenes of {args.size}x{args.size} in {time.time() - start:.0f} s")


if __name__ == "__main__":
    run_tool(main)
