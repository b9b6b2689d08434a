"""A training run that takes seconds, for the tests of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from visionattn.engine.config import resolve_config
from visionattn.engine.data import ClassificationDataset
from visionattn.engine.hooks import read_history

CONFIGS = Path(__file__).parents[2] / "configs"


@DATASETS.register_module(force=True)
class Stripes(ClassificationDataset):
    """Noisy stripes, upright (0) or level (1)."""

    classes = ("upright", "level")

    def __init__(self, size: int = 48, transform: Any = None, **_: Any):
        super().__init__(transform)
        self.labels = [i % 2 for i in range(size)]

    def read(self, index: int) -> Image.Image:
        pixels = np.random.RandomState(index).randint(0, 120, (32, 32, 3)).astype(np.uint8)
        stripes = pixels[:, ::4] if self.labels[index] == 0 else pixels[::4]
        stripes += 100
        return Image.fromarray(pixels)


def tiny_config(work_dir: Path, **overrides: Any) -> Config:
    """A resolved config of 4 epochs with 6 iterations each; dotted overrides use `__` for the dot."""

    def loader(size: int, transform: Dict[str, Any], shuffle: bool) -> Dict[str, Any]:
        return {
            "batch_size": 8,
            "dataset": {"type": "Stripes", "size": size, "transform": transform},
            "sampler": {"type": "EpochSampler", "shuffle": shuffle},
            "collate_fn": {"type": "default_collate"},
        }

    config = Config(
        {
            "work_dir": str(work_dir),
            "data_config": {"input_size": (3, 32, 32)},
            "model": {"type": "ImageClassifier", "name": "dinat_test", "num_classes": 2, "label_smoothing": 0.1},
            "train_dataloader": loader(48, {"re_prob": 0.25}, True),
            "val_dataloader": loader(18, {}, False),
            "test_dataloader": loader(18, {}, False),
            "optim_wrapper": {
                "type": "PrecisionOptimWrapper",
                "constructor": "TimmParamGroups",
                "optimizer": {"type": "AdamW", "lr": 2e-3, "weight_decay": 0.05},
                "clip_grad": {"max_norm": 5.0},
            },
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 1, "convert_to_iter_based": True},
                {"type": "CosineAnnealingLR", "eta_min": 1e-5, "begin": 1, "end": 4, "convert_to_iter_based": True},
            ],
            "train_cfg": {"type": "EpochLoop", "max_epochs": 4, "val_interval": 1},
            "val_cfg": {},
            "test_cfg": {},
            "val_evaluator": {"type": "TopKAccuracy", "topk": (1,)},
            "test_evaluator": [{"type": "TopKAccuracy", "topk": (1,)}, {"type": "ConfusionMatrix"}],
            "default_hooks": {
                "runtime_info": None,
                "timer": None,
                "sampler_seed": None,
                "logger": {"type": "RunLog", "interval": 1},
                "checkpoint": {"type": "CheckpointWriter"},
            },
            "randomness": {"seed": 3},
            "log_level": "WARNING",
        }
    )
    config.merge_from_dict({key.replace("__", "."): value for key, value in overrides.items()})
    return resolve_config(config)


def training_losses(work_dir: Path) -> Dict[int, float]:
    """Loss of each iteration in a run's history."""
    rows: List[Dict[str, Any]] = read_history(Path(work_dir, "history.jsonl"))
    return {row["iter"]: row["train_loss"] for row in rows if "train_loss" in row}
