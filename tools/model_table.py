"""The tables of models: `python tools/model_table.py` prints the README's.

`--write README.md` puts that table in place, `--write-docs docs/models.md` writes a section per family: where it comes
from, what of it is ours, and its variants. Sizes are computed, top-1 is what the papers report for released weights.
"""

import argparse
import functools
from pathlib import Path
from types import ModuleType
from typing import Dict, List, Sequence

import timm

import visionattn
from visionattn.models._variants import short_name
from visionattn.utils import count_macs

START, END = "<!-- models: made by tools/model_table.py -->", "<!-- end of models -->"
NOTICE = "<!-- made by `python tools/model_table.py --write-docs docs/models.md`; edit the model files instead -->"
_TRAINING_SETS = {
    "in1k": "IN-1k",
    "in22k": "IN-22k",
    "in21k": "IN-21k",
    "in22k_ft_in1k": "IN-22k, IN-1k",
    "in21k_ft_in1k": "IN-21k, IN-1k",
    "": "no weights",
}


_README_COLUMNS = ("model", "short name", "input", "params (M)", "MACs (G)", "published top-1", "trained on", "paper")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(columns: Sequence[str], rows: Sequence[Dict[str, str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join(map(_line, lines))


def families() -> List[ModuleType]:
    """The model files, in the order of their names."""
    return [getattr(visionattn.models, name) for name in sorted([*visionattn.models.__all__, "mambaout"])]


def published(family: ModuleType) -> Dict[str, float]:
    """ImageNet-1k top-1 of the released weights by variant; none where the paper released none."""
    return getattr(family, "PUBLISHED_TOP1", {})


def variants(family: ModuleType) -> List[str]:
    """Full names of a family's models; those that timm has registered first."""
    return list(dict.fromkeys([*(name for name in published(family) if name not in family.VARIANTS), *family.VARIANTS]))


@functools.cache
def _row(family: ModuleType, variant: str) -> Dict[str, str]:
    """One variant's cells by column; the model is built without memory for its weights."""
    model = timm.create_model(variant, device="meta")
    cfg = model.pretrained_cfg
    size = cfg["input_size"][-1]
    paper = timm.get_pretrained_cfg(next(iter(family.VARIANTS))).paper_ids  # timm's own configurations lack it
    paper = (cfg.get("paper_ids") or paper).removeprefix("arXiv:")
    top1 = published(family).get(variant)
    alias = short_name(variant)
    return {
        "model": f"`{variant}`",
        "short name": f"`{alias}`" if alias != variant and timm.is_model(alias) else "",
        "input": str(size),
        "params (M)": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
        "MACs (G)": f"{count_macs(model, size) / 1e9:.2f}",
        "published top-1": "" if top1 is None else f"{top1:.1f}",
        "trained on": _TRAINING_SETS.get(cfg.get("tag") or "", cfg.get("tag")),
        "paper": f"[{paper}](https://arxiv.org/abs/{paper})",
        "channels": ", ".join(str(info["num_chs"]) for info in model.feature_info[:4]),
        "strides": ", ".join(str(info["reduction"]) for info in model.feature_info[:4]),
    }


def model_table() -> str:
    """The README's table of every variant, in Markdown."""
    rows = [_row(family, variant) for family in families() for variant in variants(family)]
    return _table(_README_COLUMNS, [row for row in rows if not row["model"].endswith("_test`")])


def readme_row(family: ModuleType, variant: str) -> str:
    """One variant's line of the README's table."""
    row = _row(family, variant)
    return _line([row[column] for column in _README_COLUMNS])


def model_docs() -> str:
    """A page with a section per family, in Markdown."""
    columns = (
        "model", "short name", "input", "params (M)", "MACs (G)", "channels", "strides", "published top-1", "trained on"
    )  # fmt: skip
    sections = []
    for family in families():
        title, _, text = family.__doc__.strip().partition("\n\n")
        rows = [_row(family, variant) for variant in variants(family)]
        source = timm.get_pretrained_cfg(next(iter(family.VARIANTS)))
        facts = f"Released at {source.origin_url}, licence {source.license}."
        sections.append("\n\n".join([f"## {' '.join(title.split()).rstrip('.')}", text, facts, _table(columns, rows)]))
    return "\n\n".join(["# Models", NOTICE, *sections]) + "\n"


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    parser.add_argument("--write-docs", type=Path, metavar="FILE", help="write the page of all families to this file")
    args = parser.parse_args()
    if args.write:
        args.write.write_text(replace_table(args.write.read_text()))
    if args.write_docs:
        args.write_docs.write_text(model_docs())
    if not (args.write or args.write_docs):
        print(model_table())


if __name__ == "__main__":
    main()
