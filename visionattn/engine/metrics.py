"""Evaluation metrics, kept and merged over ranks by torchmetrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from visionattn.engine.data import IGNORED_LABEL

__all__ = ["ConfusionMatrix", "TopKAccuracy"]


class TorchMetric(BaseMetric):
    """An mmengine metric whose state is that of torchmetrics objects, made at the first batch.

    Samples that fill up the last batches carry the label -1 and are ignored, so nothing is counted twice on several
    ranks.
    """

    default_prefix = ""  # None makes mmengine complain

    def __init__(self):
        super().__init__()
        self.metrics: Dict[str, Metric] = {}

    def create(self, num_classes: int) -> Dict[str, Metric]:
        """Makes the torchmetrics objects by name."""
        raise NotImplementedError

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds a batch of `logits` `[batch, num_classes]` and `labels` `[batch]`."""
        for metric in self.metrics.values():
            metric.update(logits, labels)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, torch.Tensor]]) -> None:
        for batch in data_samples:
            logits, labels = batch["logits"], batch["labels"].to(batch["logits"].device)
            if not self.metrics:
                self.metrics = {k: m.to(logits.device) for k, m in self.create(logits.shape[1]).items()}
            self.update(logits, labels)

    def evaluate(self, size: int) -> Dict[str, Any]:
        if not self.metrics:
            raise ValueError("nothing to evaluate: the data loader gave no batch")
        values = {name: metric.compute() for name, metric in self.metrics.items()}
        for metric in self.metrics.values():
            metric.reset()
        return self.compute_metrics(values)

    def compute_metrics(self, values: Dict[str, torch.Tensor]) -> Dict[str, Any]:
        return {name: float(value) for name, value in values.items()}


@METRICS.register_module()
class TopKAccuracy(TorchMetric):
    """`top1`, `top5`, ... in percent, and the mean cross-entropy `loss`.

    Args:
        topk: Numbers of guesses; those above the number of classes are left out.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, topk: Sequence[int] = (1, 5)):
        super().__init__()
        if not topk or min(topk) < 1:
            raise ValueError(f"topk must be positive integers, got {topk}")
        self.topk = tuple(topk)

    def create(self, num_classes: int) -> Dict[str, Metric]:
        options = {"num_classes": num_classes, "average": "micro", "ignore_index": IGNORED_LABEL}
        accuracy = {f"top{k}": MulticlassAccuracy(top_k=k, **options) for k in self.topk if k <= num_classes}
        return {**accuracy, "loss": MeanMetric()}

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        for name, metric in self.metrics.items():
            if name != "loss":
                metric.update(logits, labels)
        counted = labels != IGNORED_LABEL
        self.metrics["loss"].update(F.cross_entropy(logits[counted], labels[counted], reduction="none"))

    def compute_metrics(self, values: Dict[str, torch.Tensor]) -> Dict[str, float]:
        return {name: float(value) * (1 if name == "loss" else 100) for name, value in values.items()}


@METRICS.register_module()
class ConfusionMatrix(TorchMetric):
    """Writes `confusion_matrix.npy` (rows: labels, columns: predictions, counts) and a picture of it.

    Args:
        out_dir: Folder for both files; the tools fill in the work folder.
    """

    def __init__(self, out_dir: Optional[str] = None):
        super().__init__()
        self.out_dir = out_dir

    def create(self, num_classes: int) -> Dict[str, Metric]:
        return {"matrix": MulticlassConfusionMatrix(num_classes=num_classes, ignore_index=IGNORED_LABEL)}

    def compute_metrics(self, values: Dict[str, torch.Tensor]) -> Dict[str, float]:
        matrix = values["matrix"].cpu().numpy()
        if self.out_dir is not None and is_main_process():
            from visionattn.engine.figures import draw_confusion_matrix

            out_dir = Path(self.out_dir)
            out_dir.mkdir(parents=True, exist_ok=True)
            np.save(out_dir / "confusion_matrix.npy", matrix)
            draw_confusion_matrix(matrix, self.class_names(len(matrix)), out_dir / "confusion_matrix.png")
        counts = matrix.sum(1)
        recall = np.diag(matrix)[counts > 0] / counts[counts > 0]
        return {"mean_class_recall": float(recall.mean() * 100)}

    def class_names(self, num_classes: int) -> List[str]:
        """Names of the data set's classes, or numbers where it has none."""
        names = list((self.dataset_meta or {}).get("classes", ()))
        return names + [str(i) for i in range(len(names), num_classes)]
