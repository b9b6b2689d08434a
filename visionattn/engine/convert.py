"""Converting checkpoint files of others into plain weights of ours."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import List, NamedTuple, Optional, Union

import safetensors.torch

from visionattn.checkpoint import convert_checkpoint, load_checkpoint_file
from visionattn.engine.checkpoint import CheckpointError, atomic_save, atomic_write
from visionattn.engine.classifier import create_net

__all__ = ["ConversionReport", "convert_file"]


class ConversionReport(NamedTuple):
    """What became of a checkpoint.

    Attributes:
        tensors: Tensors written.
        parameters: Their elements.
        missing: Tensors of the model that the source had nothing for.
        warnings: What the conversion left out, in words.
    """

    tensors: int
    parameters: int
    missing: List[str]
    warnings: List[str]


def convert_file(
    model: str,
    source: Union[str, os.PathLike],
    target: Union[str, os.PathLike],
    num_classes: Optional[int] = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Writes the weights in `source` under the names and shapes of one of our models.

    The target is written atomically and only after the whole conversion succeeded; a failure leaves an existing one as
    it was.

    Args:
        model: Model name.
        source: Checkpoint of the papers, of a port, or of ours.
        target: `.safetensors` or `.pth`.
        num_classes: Classes of the checkpoint, if not the model's usual number.
        overwrite: Replace an existing target.

    Returns:
        What was written and what didn't fit.

    Raises:
        FileNotFoundError: no source file.
        ValueError: another suffix, an existing target, an unreadable source, or one of another model.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"target must end in .safetensors or .pth, got {target}")
    if target.exists() and not overwrite:
        raise ValueError(f"target {target} exists; --overwrite replaces it")
    net = create_net(model, device="meta", **({} if num_classes is None else {"num_classes": num_classes}))
    content = load_checkpoint_file(source)
    warnings = WarningList()
    logger = logging.getLogger(convert_checkpoint.__module__)
    logger.addHandler(warnings)
    try:
        weights = convert_checkpoint(content, net)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    finally:
        logger.removeHandler(warnings)
    weights = {name: value.contiguous() for name, value in weights.items()}
    if target.suffix == ".pth":
        atomic_save(weights, target)
    else:
        data = safetensors.torch.save(weights, {"format": "pt", "model": model})
        atomic_write(target, lambda file: file.write(data))
    return ConversionReport(
        len(weights),
        sum(value.numel() for value in weights.values()),
        [name for name in net.state_dict() if name not in weights],
        warnings.messages,
    )


class WarningList(logging.Handler):
    """Keeps the messages of a logger."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: List[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
