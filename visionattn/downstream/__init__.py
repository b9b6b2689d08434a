"""Backbones inside detectors and segmenters."""

from visionattn.downstream.pyramid import FeaturePyramid

__all__ = ["FeaturePyramid"]
