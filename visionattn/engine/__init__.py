"""Training and evaluation on mmengine's Runner. Importing this registers every component that the configs name."""

from visionattn.engine import classifier, data, detection, hooks, metrics, optim, pictures, runner, segmentation
from visionattn.engine.config import load_config, parse_options
from visionattn.engine.mmengine_compat import quiet_warnings
from visionattn.engine.runner import VisionRunner

__all__ = [
    "VisionRunner",
    "classifier",
    "data",
    "detection",
    "hooks",
    "load_config",
    "metrics",
    "optim",
    "parse_options",
    "pictures",
    "runner",
    "segmentation",
]

quiet_warnings()
