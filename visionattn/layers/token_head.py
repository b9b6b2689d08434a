"""The classifier of networks whose features are tokens with a class token."""

from typing import Optional

from timm.layers import global_pool_nlc
from torch import Tensor, nn

__all__ = ["TokenHead"]


class TokenPool(nn.Module):
    """Tokens `[B, 1 + N, C]`, the class token first, to `[B, C]`; with pool_type "" nothing is done."""

    def __init__(self, pool_type: str):
        super().__init__()
        if pool_type not in ("token", "avg", "max", "avgmax", ""):
            raise ValueError(f"global_pool must be 'token', 'avg', 'max', 'avgmax' or '', got {pool_type!r}")
        self.pool_type = pool_type

    def forward(self, x: Tensor) -> Tensor:
        return global_pool_nlc(x, self.pool_type, num_prefix_tokens=1)


class TokenHead(nn.Module):
    """Pooling, dropout and classifier of normed tokens, with the interface of timm's `ClassifierHead`."""

    def __init__(self, in_features: int, num_classes: int, pool_type: str, drop_rate: float, device=None, dtype=None):
        super().__init__()
        self.num_features = in_features
        self.global_pool = TokenPool(pool_type)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Identity()
        self.reset(num_classes, device=device, dtype=dtype)

    def reset(
        self,
        num_classes: int,
        pool_type: Optional[str] = None,
        reset_other: bool = False,
        in_features: Optional[int] = None,
        device=None,
        dtype=None,
    ) -> None:
        """Replaces the classifier (none for 0 classes); None keeps the pooling or the width."""
        if pool_type is not None:
            self.global_pool = TokenPool(pool_type)
        if in_features is not None:
            self.num_features = in_features
        dd = dict(device=device, dtype=dtype)
        self.fc = nn.Linear(self.num_features, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)
