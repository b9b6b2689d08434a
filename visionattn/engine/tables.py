"""Tables of results on the terminal."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from rich.console import Console
from rich.table import Table

__all__ = ["measured_table", "wide_console"]


def wide_console() -> Console:
    """A console that prints long lines where there is no terminal to fit: a file has room."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    return console


def measured_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], decimals: Optional[Mapping[str, int]] = None
) -> Table:
    """The rows of a benchmark; where one has an `error`, that stands in place of its last three columns.

    Args:
        rows: With the keys of `columns`, and `device`, `dtype` and `error`; the first names device and dtype.
        columns: Key to heading.
        decimals: Digits after the point by key, one by default.
    """
    decimals = decimals or {}
    table = Table(*columns.values(), title=f"{rows[0]['device']}, {rows[0]['dtype']}, medians")
    for row in rows:
        cells = [
            f"{row[key]:,.{decimals.get(key, 1)}f}" if isinstance(row[key], float) else str(row[key] or "")
            for key in columns
        ]
        table.add_row(*cells[:-3], row["error"], "", "") if row["error"] else table.add_row(*cells)
    return table
