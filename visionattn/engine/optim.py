"""Optimizer wrapper (mixed precision, accumulation, clipping) and parameter groups."""

from __future__ import annotations

from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from timm.models import group_parameters
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

__all__ = ["PrecisionOptimWrapper", "TimmParamGroups", "timm_part"]

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@OPTIM_WRAPPERS.register_module()
class PrecisionOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper with mixed precision on any device, FSDP included.

    Args:
        optimizer: The optimizer.
        amp: None (full precision), "bfloat16" or "float16"; float16 scales the loss dynamically.
        accumulative_counts: Backward passes per optimizer step.
        clip_grad: Arguments of `torch.nn.utils.clip_grad_norm_`, such as `dict(max_norm=5.0)`, or None.

    Attributes:
        grad_norm: Total gradient norm before clipping at the last step, a scalar tensor; None without clipping.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        amp: Optional[str] = None,
        accumulative_counts: int = 1,
        clip_grad: Optional[Mapping[str, Any]] = None,
    ):
        if amp is not None and amp not in AMP_DTYPES:
            raise ValueError(f"amp must be None, {' or '.join(AMP_DTYPES)}, got {amp!r}")
        if not isinstance(accumulative_counts, int) or accumulative_counts < 1:
            raise ValueError(f"accumulative_counts must be a positive integer, got {accumulative_counts!r}")
        super().__init__(optimizer, accumulative_counts=accumulative_counts, clip_grad=clip_grad)
        self.accumulative_counts = accumulative_counts
        self.device_type = optimizer.param_groups[0]["params"][0].device.type
        self.dtype = AMP_DTYPES.get(amp)
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=amp == "float16")
        self.grad_norm: Optional[Tensor] = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no gradient synchronisation between optimizer steps."""
        with super().optim_context(model), torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    def _clip_grad(self) -> None:
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = self.clip_func(params, **self.clip_grad_kwargs)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def state_dict(self) -> Dict[str, Any]:
        state = super().state_dict()
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        state_dict = dict(state_dict)
        scaler = state_dict.pop("scaler", None)
        if scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmParamGroups:
    """Builds an optimizer wrapper whose groups follow the model's own `no_weight_decay()` and `group_matcher()`.

    Those of the backbone, where the model is a detector or segmenter; what is around the backbone counts as its head.
    Biases and other parameters with at most one axis are never decayed.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with an `optimizer` config.
        paramwise_cfg: `dict(layer_decay=0.8)` multiplies the learning rate by this per layer downwards from the head;
            or None.

    Raises:
        ValueError: an unknown key in `paramwise_cfg`.
    """

    def __init__(self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Optional[Mapping[str, Any]] = None):
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.wrapper_cfg.setdefault("type", "PrecisionOptimWrapper")
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))
        paramwise_cfg = dict(paramwise_cfg or {})
        self.layer_decay = paramwise_cfg.pop("layer_decay", None)
        if paramwise_cfg:
            raise ValueError(f"paramwise_cfg takes layer_decay only, got {', '.join(paramwise_cfg)}")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        net = (model.module if is_model_wrapper(model) else model).net
        groups = parameter_groups(
            net, self.optimizer_cfg["lr"], self.optimizer_cfg.get("weight_decay", 0.0), self.layer_decay
        )
        optimizer = OPTIMIZERS.build({"params": groups, **self.optimizer_cfg})
        return OPTIM_WRAPPERS.build({**self.wrapper_cfg, "optimizer": optimizer})


def timm_part(net: nn.Module) -> Tuple[str, nn.Module]:
    """The timm model in a network, which may be the network, and the prefix of its names (empty, or with a dot).

    Raises:
        ValueError: there is none.
    """
    for name, module in net.named_modules():
        if hasattr(module, "group_matcher"):
            return f"{name}." if name else "", module
    raise ValueError(f"{type(net).__name__} holds no model of timm's")


def parameter_groups(
    net: nn.Module, lr: float, weight_decay: float, layer_decay: Optional[float] = None
) -> List[Dict[str, Any]]:
    """Groups of the trained parameters by learning rate and weight decay, as an optimizer takes them."""
    prefix, backbone = timm_part(net)
    free = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    matcher = backbone.group_matcher(coarse=False)
    layers = group_parameters(backbone, matcher, return_values=False, reverse=True) if layer_decay else {}
    top = max(layers.values(), default=0) + (1 if prefix else 0)
    groups: Dict[Tuple[int, bool], List[Tensor]] = {}
    for name, param in net.named_parameters():
        if not param.requires_grad:
            continue
        own = name[len(prefix) :] if name.startswith(prefix) else None
        decayed = param.ndim > 1 and not name.endswith(".bias") and not any(own and fnmatch(own, p) for p in free)
        groups.setdefault((layers.get(own, top), decayed), []).append(param)
    return [
        {
            "params": params,
            "lr": lr * (layer_decay or 1.0) ** (top - layer),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (layer, decayed), params in sorted(groups.items(), key=lambda item: item[0])
    ]
