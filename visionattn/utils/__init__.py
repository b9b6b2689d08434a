"""Measuring tools that belong to no single layer, operator or model."""

from visionattn.utils.flops import count_macs

__all__ = ["count_macs"]
