"""Kernels of `visionattn.ops.rank_augmented_linear_attention`."""

from visionattn.ops.triton import _linear_launch as launch

__all__ = ["backward", "forward"]

forward, backward = launch.rotary_kernels(launch.Attention("elu", "divide", weighted=True, vectors=3))
