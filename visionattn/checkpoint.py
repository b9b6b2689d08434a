"""Reading checkpoint files, and fitting released weights to our models."""

import argparse
import logging
import pickle
from pathlib import Path
from typing import Any, Dict, List, Mapping, Union

import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from visionattn.models._family import family_of

__all__ = ["convert_checkpoint", "load_checkpoint_file"]

_logger = logging.getLogger(__name__)


def load_checkpoint_file(path: Union[str, Path]) -> Dict[str, Any]:
    """Reads a checkpoint file to CPU memory; runs no code from it.

    Args:
        path: A `torch.save` file, or a safetensors file (`*.safetensors`).

    Returns:
        What the file holds, e.g. a state dict or a training checkpoint around one; see `convert_checkpoint`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, of another format, holds other objects than plain data, or no dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a checkpoint file, there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training checkpoints hold one
                content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except (SafetensorError, OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is not a readable checkpoint: it is truncated, not a file of torch.save or safetensors, or holds "
            f"objects that are not plain data ({reason})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def convert_checkpoint(state_dict: Mapping[str, Any], model: nn.Module) -> Dict[str, Tensor]:
    """Fits released weights to `model`: the names, layouts and table sizes of its own `state_dict()`.

    Takes the papers' files, their Hugging Face ports and our own files, bare or inside `state_dict`, `model`,
    `state_dict_ema` or `model_ema`, with or without a `module.`, `backbone.` or `model.` prefix. A complete
    classification checkpoint loads with `model.load_state_dict(converted, strict=True)`. Three things may legitimately
    not fit, are logged, and then need `strict=False`: a classifier for other classes is left out; a dense-prediction
    checkpoint has no classifier and final norm; a model cut for features takes no later stages.

    Args:
        state_dict: The weights; it is not changed.
        model: A model of `timm.create_model`, also with `features_only=True`.

    Returns:
        Name to tensor, in the order and with the names of `model.state_dict()`.

    Raises:
        TypeError: `state_dict` is no mapping, or `model` no model of a family with a checkpoint filter.
        ValueError: weights are missing, left over or of another shape; the message counts and names them.
    """
    network = model.model if isinstance(model, FeatureGetterNet) else model
    family = family_of(network)
    if not hasattr(family, "checkpoint_filter_fn"):
        raise TypeError(f"model must be a backbone with a checkpoint filter, got {type(model).__name__}")
    weights = family.checkpoint_filter_fn(state_dict, network)
    weights = _without_legitimate_misfits(weights, network)

    expected = network.state_dict()
    has_classifier = any(_is_classifier(name) for name in weights)
    missing = [name for name in expected if name not in weights and not _may_be_absent(name, has_classifier)]
    unexpected = [name for name in weights if name not in expected]
    reshaped = [name for name in weights if name in expected and weights[name].shape != expected[name].shape]
    problems = [
        _listed("missing", missing),
        _listed("not of this model", unexpected),
        _listed(
            "of another shape",
            [f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}" for name in reshaped],
        ),
    ]
    if any(problems):
        name = getattr(network, "pretrained_cfg", {}).get("architecture", type(network).__name__)
        found = f"state_dict does not fit {name} ({len(expected)} tensors): "
        raise ValueError(found + "; ".join(problem for problem in problems if problem))
    absent = [name for name in expected if name not in weights]
    if absent:
        _logger.warning("The checkpoint has no %s; load it with strict=False.", ", ".join(absent))
    prefix = "model." if network is not model else ""
    return {prefix + name: weights[name] for name in expected if name in weights}


def _is_classifier(name: str) -> bool:
    return name.startswith("head.")


def _may_be_absent(name: str, has_classifier: bool) -> bool:
    return not has_classifier and (_is_classifier(name) or name.startswith("norm."))


def _without_legitimate_misfits(weights: Dict[str, Tensor], network: nn.Module) -> Dict[str, Tensor]:
    """Leaves out a classifier for other classes, and what belongs to modules that a model cut for features lacks."""
    expected = network.state_dict()
    cut = getattr(network, "num_classes", None) == 0
    kept, left_out = {}, []
    for name, value in weights.items():
        if name in expected:
            fits = not _is_classifier(name) or value.shape == expected[name].shape
        else:
            fits = not (cut and _belongs_to_absent_module(name, network))
        if fits:
            kept[name] = value
        else:
            left_out.append(name)
    if left_out:
        _logger.warning("The model has no place for %d weights: %s", len(left_out), _first(left_out))
    return kept


def _belongs_to_absent_module(name: str, network: nn.Module) -> bool:
    """Whether `network` has no parameters at all in the stage (`stages.3.`), norm or head that `name` is from."""
    parts = name.split(".")
    prefix = ".".join(parts[: 2 if parts[1].isdigit() else 1]) + "."
    return not any(own.startswith(prefix) for own in network.state_dict())


def _listed(what: str, names: List[str]) -> str:
    return f"{len(names)} {what}: {_first(names)}" if names else ""


def _first(names: List[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
