"""Steps that the checkpoint filters of all families share; each maps a state dict to a state dict."""

import re
from typing import Any, Callable, Dict, Iterable, Mapping, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["join_qkv", "rename", "resize_bias_table", "resize_bias_tables", "unwrap"]

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
_PORT_QUERY = re.compile(r"(.*\.attention\.self\.)query\.(weight|bias)")

StateDict = Dict[str, Tensor]
Rule = Tuple[str, Union[str, Callable[[re.Match], str]]]


def unwrap(checkpoint: Mapping[str, Any]) -> StateDict:
    """The weights of one model out of a training checkpoint, of a wrapped model or of a detector's backbone.

    Takes averaged weights where there are any, and only what is below a prefix such as `backbone.` where there is one,
    with the classifier that mmpretrain's files have beside it.

    Raises:
        TypeError: not a mapping.
        ValueError: no tensors in it.
    """
    if not isinstance(checkpoint, Mapping):
        raise TypeError(f"state_dict must be a dict of tensors, got {type(checkpoint).__name__}")
    while inner := next((key for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None):
        checkpoint = checkpoint[inner]
    weights = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in _PREFIXES if any(name.startswith(p) for name in weights)), None):
        kept = (prefix, "head.") if prefix == "backbone." else prefix
        weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(kept)}
    if not weights:
        raise ValueError(f"state_dict holds no weights, its keys are {[*checkpoint][:5]}")
    return weights


def rename(state_dict: StateDict, rules: Iterable[Rule], drop: str = "") -> StateDict:
    """Applies every regex rule to every name, in order; leaves out names that match the regex `drop`."""
    out = {}
    for name, value in state_dict.items():
        if drop and re.search(drop, name):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def join_qkv(state_dict: StateDict) -> StateDict:
    """Joins the query, key and value projections that Hugging Face's ports keep apart into one `qkv`."""
    out = dict(state_dict)
    for name in state_dict:
        if match := _PORT_QUERY.fullmatch(name):
            prefix, kind = match.groups()
            parts = [out.pop(f"{prefix}{part}.{kind}", None) for part in ("query", "key", "value")]
            if any(part is None for part in parts):
                raise ValueError(f"state_dict has {name} without its key and value projections")
            out[f"{prefix}qkv.{kind}"] = torch.cat(parts)
    return out


def resize_bias_tables(state_dict: StateDict, model: nn.Module, suffix: str = ".rpb") -> StateDict:
    """Resizes relative bias tables `[heads, ...]` bicubically to the model's; other heads are left as they are."""
    out = dict(state_dict)
    for name, parameter in model.named_parameters():
        table = out.get(name)
        if name.endswith(suffix) and table is not None and table.ndim == 3 and table.shape[0] == parameter.shape[0]:
            out[name] = resize_bias_table(table, parameter.shape[1:])
    return out


def resize_bias_table(table: Tensor, size: Iterable[int]) -> Tensor:
    """`[heads, height, width]` resized bicubically, as Swin's tables are for other windows."""
    size = tuple(size)
    if tuple(table.shape[1:]) == size:
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32))
    return F.interpolate(wide[None], size, mode="bicubic", align_corners=False)[0].to(table.dtype)
