"""Vision backbones whose attention is cheaper than quadratic, as ordinary timm models, with kernels of their own."""

from visionattn import models, ops
from visionattn._library import info
from visionattn._version import __version__
from visionattn.checkpoint import convert_checkpoint, load_checkpoint_file
from visionattn.utils.fuse import fuse

__all__ = ["__version__", "convert_checkpoint", "fuse", "info", "load_checkpoint_file", "models", "ops"]
