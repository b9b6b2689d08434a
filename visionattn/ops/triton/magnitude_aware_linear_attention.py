"""Kernels of `visionattn.ops.magnitude_aware_linear_attention`."""

from visionattn.ops.triton import _linear_launch as launch

__all__ = ["backward", "forward"]

forward, backward = launch.rotary_kernels(launch.Attention("elu", "magnitude", vectors=2, grad_vectors=2))
