"""Pictures: training curves, confusion matrices, predictions with attention, benchmark bars."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from visionattn.engine.checkpoint import atomic_write

__all__ = ["draw_bars", "draw_confusion_matrix", "draw_curves", "draw_models", "draw_over_floor", "draw_predictions"]

BLUE, ORANGE, GREEN, GREY = "#2563a8", "#d97706", "#2f855a", "#8a8f98"
# Validation scores that curves show, what matters most first.
SCORES = {
    "top1": "top-1",
    "top5": "top-5",
    "bbox_map50": "boxes, AP50",
    "segm_map50": "masks, AP50",
    "bbox_map": "boxes, AP",
    "segm_map": "masks, AP",
    "miou": "mean IoU",
    "pixel_accuracy": "pixels",
}


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches, apart from pyplot's global state (which would pick a window system)."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Union[str, os.PathLike]) -> None:
    """Writes a figure as PNG, atomically."""
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def plain_axes(axes: Any) -> Any:
    """Axes without the box around them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def legend_below(figure: Figure, charts: Iterable[Any]) -> None:
    """One legend for all charts of a figure, below them."""
    drawn = {label: handle for axes in charts for handle, label in zip(*axes.get_legend_handles_labels())}
    if drawn:
        figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=len(drawn), frameon=False, fontsize=8)


def draw_curves(history: Sequence[Dict[str, Any]], path: Union[str, os.PathLike]) -> None:
    """Draws losses, scores and the learning rate over epochs.

    Args:
        history: Rows of `history.jsonl`.
        path: PNG to write; nothing is written for an empty history.
    """
    train = [row for row in history if "train_loss" in row]
    val = [row for row in history if any(name.startswith("val_") for name in row)]
    if not train:
        return
    per_epoch = max(1, max(row["iter"] / row["epoch"] for row in train))
    epochs = [row["iter"] / per_epoch for row in train]
    figure = new_figure(11, 3.4)
    loss, accuracy, rate = (plain_axes(axes) for axes in figure.subplots(1, 3))

    loss.plot(epochs, [row["train_loss"] for row in train], color=BLUE, linewidth=1, label="training")
    rows = [row for row in val if "val_loss" in row]
    if rows:
        loss.plot([row["iter"] / per_epoch for row in rows], [row["val_loss"] for row in rows], color=ORANGE)
        loss.lines[-1].set_label("validation")
    loss.set_title("loss", loc="left", fontsize=11)
    loss.set_ylim(bottom=0)
    loss.legend(frameon=False)

    names = [name for name in SCORES if any(f"val_{name}" in row for row in val)]
    title = "validation, %"
    for name, color in zip(names, (ORANGE, GREY, BLUE, GREEN)):
        rows = [row for row in val if f"val_{name}" in row]
        positions, values = [row["iter"] / per_epoch for row in rows], [row[f"val_{name}"] for row in rows]
        accuracy.plot(positions, values, color=color, label=SCORES[name])
        if name == names[0]:
            x, y = max(zip(positions, values), key=lambda point: point[1])
            accuracy.plot([x], [y], "o", color=color)
            title = f"validation, best {y:.2f} %"
    if names:  # below, where no line is
        accuracy.legend(frameon=False, fontsize=8, ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, -0.2))
    accuracy.set_title(title, loc="left", fontsize=11)

    rate.plot(epochs, [row["lr"] for row in train], color=GREEN)
    rate.set_title("learning rate", loc="left", fontsize=11)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    save_figure(figure, path)


def draw_confusion_matrix(matrix: np.ndarray, classes: Sequence[str], path: Union[str, os.PathLike]) -> None:
    """Draws a confusion matrix as shares of each label's samples, with counts where there is room.

    Args:
        matrix: Counts `[labels, predictions]`.
        classes: Names.
        path: PNG to write.
    """
    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(12.0, 2.2 + 0.42 * count)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= 25:
        for row, column in zip(*np.nonzero(matrix)):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    if count <= 60:
        axes.set_xticks(range(count), classes, rotation=0 if max(map(len, classes)) <= 2 else 90)
        axes.set_yticks(range(count), classes)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(f"{np.trace(matrix)} of {matrix.sum()} right", loc="left", fontsize=11)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the label's samples")
    save_figure(figure, path)


def overlay(image: Image.Image, saliency: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """Lays a map over an image: `uint8 [height, width, 3]`.

    Args:
        image: RGB image.
        saliency: `[rows, columns]`, any range; scaled to its own minimum and maximum.
        opacity: Share of the colours at the map's maximum.
    """
    from matplotlib import colormaps

    low, high = float(saliency.min()), float(saliency.max())
    scaled = (saliency - low) / (high - low) if high > low else np.zeros_like(saliency)
    big = Image.fromarray((scaled * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    strength = np.asarray(big, dtype=np.float32) / 255
    colors = colormaps["inferno"](strength)[..., :3] * 255
    alpha = opacity * (0.25 + 0.75 * strength[..., None])
    return (np.asarray(image, dtype=np.float32) * (1 - alpha) + colors * alpha).astype(np.uint8)


def draw_predictions(
    results: Sequence[Dict[str, Any]], path: Union[str, os.PathLike], title: Optional[str] = None
) -> None:
    """Draws each image, its attention and its best guesses.

    Args:
        results: `dict(name, image (RGB Pillow image), attention ([rows, columns] or None), guesses ([(class,
            probability)]))`.
        path: PNG to write; nothing is written for no results.
        title: Line above everything.
    """
    if not results:
        return
    columns = min(len(results), 3)
    rows = -(-len(results) // columns)
    figure = new_figure(5.2 * columns, 1.95 * rows + (0.4 if title else 0))
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    grid = figure.add_gridspec(rows, columns)
    for place, result in zip(grid, results):
        inner = place.subgridspec(1, 3, width_ratios=(1, 1, 0.95))
        picture, attention, bars = (figure.add_subplot(cell) for cell in inner)
        show_image(picture, result["image"])
        name = result["name"] if len(result["name"]) <= 26 else "…" + result["name"][-25:]
        picture.set_title(name, fontsize=8, loc="left")
        if result["attention"] is not None:
            attention.imshow(overlay(enlarge(result["image"]), result["attention"]))
            attention.set_title("attention", fontsize=8, loc="left")
        attention.axis("off")
        show_guesses(bars, result["guesses"])
    save_figure(figure, path)


def enlarge(image: Image.Image, side: int = 224) -> Image.Image:
    """Enlarges small images so that overlays are smooth."""
    factor = max(1, -(-side // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def show_image(axes: Any, image: Image.Image) -> None:
    axes.imshow(np.asarray(image), interpolation="nearest" if max(image.size) <= 64 else "antialiased")
    axes.axis("off")


def show_guesses(axes: Any, guesses: Sequence[Any]) -> None:
    names = [name if len(name) <= 18 else name[:17] + "…" for name, _ in guesses]
    values = [value for _, value in guesses]
    axes.barh(range(len(guesses)), values, color=[BLUE] + ["#b6c7dc"] * (len(guesses) - 1), height=0.62)
    for row, (name, value) in enumerate(zip(names, values)):
        inside = value > 0.55
        axes.text(
            0.03 if inside else value + 0.03,
            row,
            f"{name}  {value:.1%}",
            va="center",
            fontsize=8,
            color="white" if inside else "black",
        )
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.axis("off")


def draw_bars(
    rows: List[Dict[str, Any]],
    columns: Dict[str, str],
    path: Union[str, os.PathLike],
    title: str = "",
    series: Optional[str] = None,
) -> None:
    """Draws one bar chart per measured quantity, all with the same labels.

    Args:
        rows: Dicts with `label` and the quantities; a missing one leaves a gap.
        columns: Quantity to axis title.
        path: PNG to write.
        title: Line above everything.
        series: Key of what tells the rows of one label apart: a bar each, in colors that a legend names.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    kinds = list(dict.fromkeys(row[series] for row in rows)) if series else [None]
    height = 0.72 / len(kinds)
    figure = new_figure(2.2 + 3.0 * len(columns), 1.2 + (0.2 + 0.17 * len(kinds)) * len(labels))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    charts = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (key, label) in zip(charts, columns.items()):
        for place, (kind, color) in enumerate(zip(kinds, (BLUE, ORANGE, GREEN, GREY))):
            shown = [row for row in rows if (not series or row[series] == kind) and row.get(key) is not None]
            if not shown:
                continue
            values = [row[key] for row in shown]
            places = [labels.index(row["label"]) + (place - (len(kinds) - 1) / 2) * height for row in shown]
            bars = axes.barh(places, values, color=color, height=0.9 * height, label=kind)
            axes.bar_label(
                bars, [f"{x:,.{1 if x < 100 else 0}f}" for x in values], padding=3, fontsize=8 if not series else 6
            )
        axes.set_title(label, loc="left", fontsize=9)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set_xlim(0, 1.2 * max([1e-9, *(row[key] for row in rows if row.get(key) is not None)]))
    charts[0].set_yticks(range(len(labels)), labels, fontsize=8)
    charts[0].set_ylim(len(labels) - 0.4, -0.6)
    if len(kinds) > 1:
        legend_below(figure, charts)
    save_figure(figure, path)


def draw_models(rows: Sequence[Dict[str, Any]], path: Union[str, os.PathLike], title: str = "") -> None:
    """Draws throughput, latency and memory of models, forward and training, eager and compiled.

    Args:
        rows: Of `visionattn.engine.benchmark.benchmark_model`.
        path: PNG to write; nothing is written where nothing was measured.
        title: Line above everything.
    """
    names = {"images_per_s": "images/s", "latency_ms": "latency, ms", "memory_mib": "memory, MiB"}
    measured = [
        (f"{row['mode']}: {names[key]}", {"label": row["model"], "how": row["how"], "value": row[key]})
        for row in rows
        for key in names
        if row[key] is not None
    ]
    columns = {column: column for column, _ in measured}
    bars = [{**row, column: row["value"]} for column, row in measured]
    if bars:
        draw_bars(bars, columns, path, title, series="how")


def draw_over_floor(rows: Sequence[Dict[str, Any]], path: Union[str, os.PathLike]) -> None:
    """Draws time over the hardware's floor per case, one panel per device, dtype and pass.

    Args:
        rows: Of `visionattn.engine.benchmark_ops.measure_case`, with `device` and `dtype`.
        path: PNG to write.
    """
    panels: Dict[Any, List[Dict[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["device"], row["dtype"], row["pass"]), []).append(row)
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = new_figure(7.5 * min(len(panels), 2) + 2, (0.42 * len(cases) + 1.2) * -(-len(panels) // 2))
    grid = figure.subplots(-(-len(panels) // 2), min(len(panels), 2), squeeze=False, sharey=True)
    markers = {
        "ours": ("o", BLUE),
        "flex": ("s", GREEN),
        "sdpa": ("^", GREY),
        "compiled": ("s", GREEN),
        "plain": ("^", GREY),
        "grouped": ("^", GREY),
        "reference": ("v", "#9f1239"),
    }
    labels = {
        "flex": "FlexAttention",
        "sdpa": "SDPA, dense",
        "compiled": "plain PyTorch, compiled",
        "plain": "plain PyTorch",
        "grouped": "grouped convolution",
        "natten": "NATTEN 0.21.7 (H200)",
    }
    for axes, (key, panel) in zip(grid.flat, panels.items()):
        plain_axes(axes).grid(axis="x", color="#e5e7eb", linewidth=0.8)
        for name, (marker, color) in markers.items():
            points = [(row["over_floor"], cases.index(row["case"])) for row in panel if row["contestant"] == name]
            points = [(x, y) for x, y in points if x]
            if points:
                axes.scatter(*zip(*points), marker=marker, color=color, label=labels.get(name, name), zorder=3)
        ours = [row for row in panel if row["contestant"] == "ours"]
        natten = [
            (row["natten_ms"] / row["floor_ms"], cases.index(row["case"])) for row in ours if row.get("natten_ms")
        ]
        if natten and "H200" in key[0]:
            axes.scatter(*zip(*natten), marker="D", color=ORANGE, label=labels["natten"], zorder=2)
        goals = [(row["goal"], cases.index(row["case"])) for row in ours if row["goal"]]
        if goals:
            axes.scatter(*zip(*goals), marker="|", s=160, color="black", label="goal", zorder=4)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(cases)), cases, fontsize=8)
        axes.set_title(", ".join(key), loc="left", fontsize=10)
        axes.set_xlabel("time over floor")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    grid[0, 0].invert_yaxis()
    legend_below(figure, grid.flat)
    save_figure(figure, path)
