"""A timm model as something that mmengine's Runner trains and evaluates."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Union

import timm
import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from timm.data import Mixup
from torch import Tensor, nn

import visionattn  # noqa: F401  registers our models with timm
from visionattn.engine.checkpoint import load_weights
from visionattn.engine.data import IGNORED_LABEL

__all__ = ["ClassificationPreprocessor", "ImageClassifier", "create_net"]


def create_net(name: str, **arguments: Any) -> nn.Module:
    """`timm.create_model` with errors that a config's author can act on.

    Raises:
        ValueError: timm doesn't know the model.
        TypeError: the model doesn't take an argument.
    """
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:8]
        hint = f"; similar names: {', '.join(similar)}" if similar else ""
        raise ValueError(f"timm and visionattn have no model {name!r}{hint}")
    try:
        return timm.create_model(name, **arguments)
    except TypeError as error:
        raise TypeError(f"model {name}: {error}") from error


@MODELS.register_module()
class ClassificationPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device and, in training, mixes it.

    Args:
        num_classes: Classes of the mixed targets.
        mixup: Arguments of `timm.data.Mixup` (mixup_alpha, cutmix_alpha, prob, switch_prob, mode, ...), or None. Label
            smoothing belongs to the classifier, which smooths mixed targets too.
        channels_last: Hand the images on in channels-last memory format.
    """

    def __init__(self, num_classes: int, mixup: Optional[Mapping[str, Any]] = None, channels_last: bool = False):
        super().__init__(non_blocking=True)
        self.mixup = None
        if mixup is not None:
            if "label_smoothing" in mixup:
                raise ValueError("mixup takes no label_smoothing here, set it on the classifier")
            self.mixup = Mixup(**mixup, label_smoothing=0.0, num_classes=num_classes)
        self.channels_last = channels_last

    def forward(self, data: Dict[str, Tensor], training: bool = False) -> Dict[str, Tensor]:
        data = dict(self.cast_data(data))
        if self.channels_last:
            data["inputs"] = data["inputs"].contiguous(memory_format=torch.channels_last)
        if training and self.mixup is not None:
            if len(data["inputs"]) % 2:
                raise ValueError(f"mixup pairs samples, so batch_size must be even, got {len(data['inputs'])}")
            data["inputs"], data["data_samples"] = self.mixup(data["inputs"], data["data_samples"])
        return data


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Cross-entropy training of any timm model.

    Args:
        name: Model for `timm.create_model`, ours or timm's.
        num_classes: Classes.
        model_args: Further arguments of the model (drop_path_rate, dilations, ...).
        checkpoint: File with weights to start from (fine-tuning): ours, the papers' or timm's. Its head is left out
            when it has another number of classes.
        label_smoothing: Share of every target that is spread over all classes.
        grad_checkpointing: Recompute activations in the backward pass instead of keeping them.
        channels_last: Weights and images in channels-last memory format.
        mixup: Arguments of `timm.data.Mixup`, or None.

    Attributes:
        net: The timm model; its state dict is what checkpoints hold.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        model_args: Optional[Mapping[str, Any]] = None,
        checkpoint: Optional[str] = None,
        label_smoothing: float = 0.0,
        grad_checkpointing: bool = False,
        channels_last: bool = False,
        mixup: Optional[Mapping[str, Any]] = None,
    ):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        super().__init__(data_preprocessor=ClassificationPreprocessor(num_classes, mixup, channels_last))
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.net = create_net(name, num_classes=num_classes, **(model_args or {}))
        if checkpoint is not None:
            load_weights(self.net, checkpoint, allow_new_head=True)
        if grad_checkpointing:
            self.net.set_grad_checkpointing(True)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)

    def init_weights(self) -> None:
        """Nothing: timm models initialise themselves, and mmengine would overwrite loaded weights."""

    def forward(
        self, inputs: Tensor, data_samples: Optional[Tensor] = None, mode: str = "tensor"
    ) -> Union[Tensor, Dict[str, Tensor], List[Dict[str, Tensor]]]:
        """Runs the net.

        Args:
            inputs: Images `[batch, 3, height, width]`.
            data_samples: Labels `[batch]` int64, or mixed targets `[batch, num_classes]`; -1 marks labels that don't
                count.
            mode: "tensor" gives logits, "loss" the loss, "predict" logits with labels for the metrics.

        Returns:
            Logits `[batch, num_classes]`; or `dict(loss=...)`; or a list with one dict of `logits` and `labels` for
            the batch.
        """
        logits = self.net(inputs)
        if mode == "tensor":
            return logits
        if mode == "loss":
            loss = F.cross_entropy(
                logits, data_samples, ignore_index=IGNORED_LABEL, label_smoothing=self.label_smoothing
            )
            return {"loss": loss}
        if mode == "predict":
            return [{"logits": logits.float(), "labels": data_samples}]
        raise ValueError(f"mode must be tensor, loss or predict, got {mode!r}")
