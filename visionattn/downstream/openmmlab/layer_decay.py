"""Learning rates that fall from the head to the stem, for any backbone that knows its layers."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from timm.models import group_parameters
from torch import nn

from visionattn.downstream.openmmlab.backbone import VisionAttnBackbone

__all__ = ["LayerDecayOptimWrapperConstructor"]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor with layer-wise learning-rate decay on a `VisionAttnBackbone`.

    The layers are those of the model's own `group_matcher`, stem first. The last of them trains at `layer_decay` times
    the learning rate, the one before at `layer_decay ** 2` times, and so on; output norms, neck and heads at the full
    rate. Parameters of equal rate and decay share a group, so that the optimizer can update them together.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with an `optimizer` config that has `lr`.
        paramwise_cfg: `layer_decay` between 0 and 1, beside all that mmengine's constructor takes (`custom_keys`,
            `norm_decay_mult`, ...).

    Raises:
        ValueError: `layer_decay` is missing or not between 0 and 1.
    """

    def __init__(self, optim_wrapper_cfg: Dict[str, Any], paramwise_cfg: Optional[Dict[str, Any]] = None):
        paramwise_cfg = dict(paramwise_cfg or {})
        self.layer_decay = paramwise_cfg.pop("layer_decay", None)
        if not isinstance(self.layer_decay, (int, float)) or not 0 < self.layer_decay <= 1:
            raise ValueError(f"paramwise_cfg.layer_decay must be in (0, 1], got {self.layer_decay!r}")
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the wrapper for a model, wrapped in data parallelism or not.

        Raises:
            TypeError: the model has no `VisionAttnBackbone`.
        """
        model = model.module if is_model_wrapper(model) else model
        scales = self._scales(model)
        parameters: List[Dict[str, Any]] = []
        self.add_params(parameters, model)
        groups: Dict[Tuple, Dict[str, Any]] = {}
        for options in parameters:
            (parameter,) = options.pop("params")
            options["lr"] = options.get("lr", self.base_lr) * scales.get(id(parameter), 1.0)
            groups.setdefault(tuple(sorted(options.items())), {**options, "params": []})["params"].append(parameter)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": [*groups.values()]})
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **self.optim_wrapper_cfg, "optimizer": optimizer})

    def _scales(self, model: nn.Module) -> Dict[int, float]:
        """Factor of the learning rate by `id` of the backbones' parameters."""
        networks = [module.body.model for module in model.modules() if isinstance(module, VisionAttnBackbone)]
        if not networks:
            raise TypeError(f"layer_decay needs a VisionAttnBackbone, {type(model).__name__} has none")
        scales = {}
        for network in networks:
            layers = group_parameters(network, network.group_matcher(coarse=False), return_values=False, reverse=True)
            count = max(layers.values()) + 1
            for name, parameter in network.named_parameters():
                scales[id(parameter)] = self.layer_decay ** (count - layers[name])
        return scales
