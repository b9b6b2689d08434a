"""NATTEN's `natten.utils`: the helper for sequences of varying length."""

from visionattn.compat.natten.utils import varlen

__all__ = ["varlen"]
