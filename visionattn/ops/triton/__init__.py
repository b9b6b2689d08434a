"""Triton kernels of operators, one module each; imported by `visionattn.ops._triton` when a call needs them."""
