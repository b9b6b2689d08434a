"""The angles of rotary position encoding on a map."""

import torch
from torch import Tensor, nn

__all__ = ["AxialRotary"]


class AxialRotary(nn.Module):
    """Holds the angles per row and per column that pairs of channels turn by.

    For `m = head_dim / 4` the angles are `10000 ** (-k / (m - 1))`, both ends included, each for a pair of channels.
    They are a buffer that checkpoints carry. It stays float32 in a model of half precision, which would confuse
    positions: at position 200 the sine is off by 0.05 in float16, by 0.4 in bfloat16.

    Args:
        head_dim: Channels of a head, a multiple of 4.
        device: Device of the buffer.

    Attributes:
        angle: `[head_dim / 2]`; for `visionattn.ops.rank_augmented_linear_attention` and its kind.

    Raises:
        ValueError: `head_dim` is no multiple of 4.

    Source: Fan et al., Breaking the Low-Rank Dilemma of Linear Attention (CVPR 2025), released code.
    """

    def __init__(self, head_dim: int, device=None):
        super().__init__()
        if head_dim < 4 or head_dim % 4:
            raise ValueError(f"head_dim must be a multiple of 4, got {head_dim}")
        self.register_buffer("angle", torch.empty(head_dim // 2, device=device, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the angles, also after `to_empty()`."""
        steps = torch.linspace(0, 1, len(self.angle) // 2, device=self.angle.device)
        with torch.no_grad():
            self.angle.copy_((1.0 / 10000**steps).repeat_interleave(2))

    def _apply(self, fn, recurse=True):
        angle = self.angle
        super()._apply(fn, recurse)
        if self.angle.dtype in (torch.float16, torch.bfloat16):
            self.angle = angle.to(self.angle.device)
        return self

    def forward(self) -> Tensor:
        return self.angle
