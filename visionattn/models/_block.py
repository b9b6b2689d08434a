"""The residual block that neighborhood attention families share, and their initialization."""

from typing import Callable, Optional

from timm.layers import DropPath, LayerScale, Mlp, trunc_normal_
from torch import Tensor, nn

from visionattn.layers import LayerNorm
from visionattn.utils.fuse import fold_layer_scale

__all__ = ["Block", "init_module"]


class Block(nn.Module):
    """Pre-norm residual block on `[B, H, W, C]`: `x += ls(attn(norm(x)))`, then `x += ls(mlp(norm(x)))`."""

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp_ratio: float,
        ls_init_value: Optional[float] = None,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Callable[..., nn.Module] = nn.GELU,
        norm_layer: Callable[..., nn.Module] = LayerNorm,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.norm1 = _before_linear(norm_layer(dim, **dd))
        self.attn = attn
        self.ls1 = nn.Identity() if ls_init_value is None else LayerScale(dim, ls_init_value, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = _before_linear(norm_layer(dim, **dd))
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop, **dd)
        self.ls2 = nn.Identity() if ls_init_value is None else LayerScale(dim, ls_init_value, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def fuse(self) -> nn.Module:
        """Folds the layer scales into the projections before them; see `visionattn.fuse`."""
        self.ls1 = fold_layer_scale(self.attn.proj, self.ls1)
        self.ls2 = fold_layer_scale(self.mlp.fc2, self.ls2)
        return self


def _before_linear(norm: nn.Module) -> nn.Module:
    """`norm`, told that attention and MLP start with a matrix product."""
    if isinstance(norm, LayerNorm):
        norm.feeds_linear = True
    return norm


def init_module(module: nn.Module) -> None:
    """The papers' initialization of one module: truncated normal (0.02) linears, others as they reset themselves."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif hasattr(module, "reset_parameters"):
        module.reset_parameters()
