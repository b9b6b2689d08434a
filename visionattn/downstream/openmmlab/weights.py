"""Whole detectors and segmenters out of checkpoints: ours, and the ones that the papers released."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from torch import Tensor, nn

from visionattn.downstream.openmmlab.backbone import VisionAttnBackbone

__all__ = ["load_weights"]

_BACKBONE = "backbone."


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Loads every parameter of a detector or segmenter, strictly.

    A backbone saved by the paper's own code (older mmdetection or mmsegmentation) is renamed on the way; necks and
    heads have kept their names.

    Args:
        model: A model of mmdet or mmseg, on a `VisionAttnBackbone` or not.
        checkpoint: Its state dict, bare or as `state_dict` of a training checkpoint.

    Raises:
        ValueError: the checkpoint is of another model; the message counts and names what does not fit.
    """
    weights: Dict[str, Any] = dict(checkpoint.get("state_dict", checkpoint))
    weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    expected = model.state_dict()
    backbone = getattr(model, "backbone", None)
    released = {name: value for name, value in weights.items() if name.startswith(_BACKBONE)}
    if isinstance(backbone, VisionAttnBackbone) and released and not any(name in expected for name in released):
        missing = backbone.load_released(released)
        if missing:
            raise ValueError(f"the checkpoint's backbone has no {_listed(missing)}")
        own = {f"{_BACKBONE}{name}": value for name, value in backbone.state_dict().items()}
        weights = {**{name: value for name, value in weights.items() if name not in released}, **own}
    problems = [
        _problem("missing", [name for name in expected if name not in weights]),
        _problem("not of this model", [name for name in weights if name not in expected]),
        _problem(
            "of another shape",
            [name for name in weights if name in expected and weights[name].shape != expected[name].shape],
        ),
    ]
    if any(problems):
        found = "; ".join(problem for problem in problems if problem)
        raise ValueError(f"the checkpoint does not fit this {type(model).__name__} ({len(expected)} tensors): {found}")
    model.load_state_dict(weights)


def _problem(what: str, names: List[str]) -> str:
    return f"{len(names)} {what}: {_listed(names)}" if names else ""


def _listed(names: List[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
