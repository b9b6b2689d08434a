"""Backbones inside detectors and segmenters."""

from visionattn.downstream.pyramid import FeaturePyramid
from visionattn.downstream.windows import sliding_window

__all__ = ["FeaturePyramid", "sliding_window"]
