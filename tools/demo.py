"""Trains a small DiNAT on handwritten digits, tests it and classifies image files: minutes on two cores, no download.

Leaves in --work-dir: run.log, best.pth, curves.png, test/ (metrics, confusion matrix) and predictions/ (predictions.png
with attention maps, predictions.json). Ends with status 1 if top-1 on the held-back third is below 97 %.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from visionattn.engine.cli import run_tool
from visionattn.engine.data import Digits

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "classification" / "dinat" / "dinat_test_digits.py"
PICTURES = 12
REQUIRED_TOP1 = 97.0


def run(tool: str, *arguments: object) -> None:
    """Runs one of the tools beside this file as a user would, after saying so."""
    command = [str(Path("tools", tool)), *map(str, arguments)]
    print(f"\n$ python {' '.join(command)}", flush=True)
    # threads that spin while they wait for each other are twenty times slower where other programs run, too
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=True, env=environment)


def export_digits(folder: Path) -> None:
    """Writes some held-back digits as PNG files, one of each class and then more."""
    digits = Digits("val")
    first_of_each = [digits.labels.index(label) for label in range(len(digits.classes))]
    others = [i for i in range(len(digits)) if i not in first_of_each]
    folder.mkdir(parents=True, exist_ok=True)
    for index in (first_of_each + others)[:PICTURES]:
        digits.read(index).save(folder / f"digit_{digits.labels[index]}_{index:03d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="passed on to the training")
    args = parser.parse_args()
    start = time.time()
    folder = args.work_dir
    options = ["--cfg-options", *args.cfg_options] if args.cfg_options else []
    run("train.py", CONFIG, "--work-dir", folder, "--seed", args.seed, *options)
    run(
        "test.py", CONFIG, folder / "best.pth", "--work-dir", folder / "test", "--out", folder / "test" / "metrics.json"
    )
    export_digits(folder / "images")
    run("predict.py", CONFIG, folder / "best.pth", folder / "images", "--out", folder / "predictions")
    top1 = json.loads((folder / "test" / "metrics.json").read_text())["top1"]
    print(f"\ntop-1 on the held-back third: {top1:.2f} %  ({time.time() - start:.0f} s)")
    for name in ("run.log", "best.pth", "curves.png", "test/confusion_matrix.png", "predictions/predictions.png"):
        print(f"  {folder / name}")
    if top1 < REQUIRED_TOP1:
        sys.exit(f"expected at least {REQUIRED_TOP1:g} %")


if __name__ == "__main__":
    run_tool(main)
