"""Vision backbones whose attention is cheaper than quadratic, as ordinary timm models, with kernels of their own."""

from visionattn import ops
from visionattn._library import info
from visionattn._version import __version__

__all__ = ["__version__", "info", "ops"]
