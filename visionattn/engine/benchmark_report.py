"""The JSON files that benchmarks leave."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any, Dict, Sequence, Union

import torch

from visionattn.engine.checkpoint import atomic_write

__all__ = ["write_report"]


def write_report(path: Union[str, os.PathLike], rows: Sequence[Dict[str, Any]], **facts: Any) -> None:
    """Writes measured rows with the date and torch's version, whole or not at all.

    Called after every row, it leaves what a run has that is cut off.

    Args:
        path: JSON file to write: `dict(date, torch, **facts, rows)`.
        rows: What was measured.
        **facts: What holds for all rows.
    """
    report = {"date": datetime.date.today().isoformat(), "torch": torch.__version__, **facts, "rows": list(rows)}
    text = json.dumps(report, indent=1)
    atomic_write(path, lambda file: file.write(text.encode()))
