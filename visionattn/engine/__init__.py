"""Training and evaluation on mmengine's Runner. Importing this registers every component that the configs name."""

from visionattn.engine import classifier, data, hooks, metrics, optim, runner
from visionattn.engine.config import load_config, parse_options
from visionattn.engine.mmengine_compat import quiet_warnings
from visionattn.engine.runner import VisionRunner

__all__ = ["VisionRunner", "classifier", "data", "hooks", "load_config", "metrics", "optim", "parse_options", "runner"]

quiet_warnings()
