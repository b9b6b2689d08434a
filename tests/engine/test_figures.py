"""Charts of benchmarks."""

from PIL import Image

from visionattn.engine import figures
from visionattn.engine.figures import draw_models, draw_over_floor


def model_row(model: str, mode: str, how: str, **measured) -> dict:
    return dict(model=model, mode=mode, how=how, images_per_s=None, latency_ms=None, memory_mib=None) | measured


def test_models_side_by_side(tmp_path):
    rows = [
        model_row("a", "forward", "eager", images_per_s=1234.5, latency_ms=1.5, memory_mib=10.0),
        model_row("a", "training", "cuda-graphs", images_per_s=12.0),  # its memory can't be told
        model_row("b", "forward", "eager"),  # out of memory
    ]
    draw_models(rows, tmp_path / "models.png", "title")
    with Image.open(tmp_path / "models.png") as picture:
        assert picture.width > picture.height > 100


def test_nothing_measured_draws_nothing(tmp_path):
    draw_models([model_row("a", "forward", "eager")], tmp_path / "models.png")
    assert not list(tmp_path.iterdir())


def test_operators_over_their_floor(tmp_path, monkeypatch):
    drawn, save = [], figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (drawn.append(figure), save(figure, path)))
    case = dict(device="NVIDIA H200", dtype="bfloat16", floor_ms=0.1, goal=2.5)
    rows = [
        dict(**case, **{"pass": mode}, case=name, contestant=contestant, over_floor=over, natten_ms=0.8)
        for mode in ("forward", "forward+backward")
        for name, contestant, over in (("small", "ours", 2.0), ("small", "grouped", 9.0), ("large", "ours", None))
    ]
    draw_over_floor(rows, tmp_path / "ops.png")
    with Image.open(tmp_path / "ops.png") as picture:
        assert picture.width > picture.height > 100
    assert all(axes.yaxis_inverted() for axes in drawn[0].axes)  # the first case on top
