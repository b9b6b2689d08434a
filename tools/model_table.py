"""The README's table of models: `python tools/model_table.py` prints it, `--write README.md` puts it in place.

Sizes are computed, top-1 is what the papers report for the released weights.
"""

import argparse
from pathlib import Path
from typing import Sequence

import timm

import visionattn
from visionattn.models._variants import short_name
from visionattn.utils import count_macs

START, END = "<!-- models: made by tools/model_table.py -->", "<!-- end of models -->"

# ImageNet-1k top-1 of the released weights, at the size that the table gives; from the papers' tables.
PUBLISHED_TOP1 = {
    "nat_mini": 81.8,
    "nat_tiny": 83.2,
    "nat_small": 83.7,
    "nat_base": 84.3,
    "dinat_mini": 81.8,
    "dinat_tiny": 82.7,
    "dinat_small": 83.8,
    "dinat_base": 84.4,
    "dinat_large": 86.6,
    "dinat_large_384": 87.4,
    "dinat_large_384_11x11": 87.5,
    "dinat_s_tiny": 81.8,
    "dinat_s_small": 83.5,
    "dinat_s_base": 83.8,
    "dinat_s_large": 86.5,
    "dinat_s_large_384": 87.4,
    "nat_isotropic_small": 80.0,
    "nat_isotropic_base": 81.6,
    "dinat_isotropic_small": 80.8,
    "dinat_isotropic_base": 82.1,
    "vitrpb_small": 81.2,
    "vitrpb_base": 82.5,
}
_COLUMNS = ("model", "short name", "input", "params (M)", "MACs (G)", "published top-1", "trained on", "paper")
_TRAINING_SETS = {"in1k": "IN-1k", "in22k": "IN-22k", "in22k_ft_in1k": "IN-22k, IN-1k", "": "no weights"}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def model_row(variant: str) -> str:
    """One variant's line of the table; the model is built without memory for its weights."""
    model = timm.create_model(variant, device="meta")
    cfg = model.pretrained_cfg
    size = cfg["input_size"][-1]
    paper = cfg["paper_ids"].removeprefix("arXiv:")
    top1 = PUBLISHED_TOP1.get(variant)
    cells = [
        f"`{variant}`",
        "" if short_name(variant) == variant else f"`{short_name(variant)}`",
        str(size),
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
        f"{count_macs(model, size) / 1e9:.2f}",
        "" if top1 is None else f"{top1:.1f}",
        _TRAINING_SETS[cfg.get("tag") or ""],
        f"[{paper}](https://arxiv.org/abs/{paper})",
    ]
    return _line(cells)


def variants() -> list[str]:
    """Full names of all models, family by family."""
    families = [getattr(visionattn.models, name) for name in visionattn.models.__all__]
    return [variant for family in families for variant in family.VARIANTS]


def model_table() -> str:
    """The table of every variant, in Markdown."""
    return "\n".join([_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(model_row, variants())])


def replace_table(text: str) -> str:
    """`text` with a new table between the two marks.

    Raises:
        ValueError: the marks are not there.
    """
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"the text must hold {START!r} and {END!r} once each")
    before, rest = text.split(START)
    return f"{before}{START}\n\n{model_table()}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    args = parser.parse_args()
    if args.write:
        args.write.write_text(replace_table(args.write.read_text()))
    else:
        print(model_table())


if __name__ == "__main__":
    main()
