"""A backbone as the pyramid of feature maps that a detector or segmenter reads."""

import re
from typing import Any, List, Mapping, Optional, Sequence

import timm
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from visionattn.checkpoint import convert_checkpoint
from visionattn.models._checkpoint import unwrap
from visionattn.models._family import OutputNorms, family_of

__all__ = ["FeaturePyramid"]


class FeaturePyramid(nn.Module):
    """Maps of several stages, `[B, C_i, H / s_i, W / s_i]` each, with the norms that the paper puts on them.

    Args:
        model_name: Any model of timm that has `features_only`, ours included.
        out_indices: Stages to return, from 0.
        output_norms: Whether each map passes a layer norm of its own (over channels); None for what the family's
            paper does, which for models of timm that we know nothing about is no norms.
        frozen_stages: Stages that are not trained, from the stem on: -1 for none, 0 for the stem, 1 for the stem and
            the first stage, and so on. Frozen stages run in eval mode.
        norm_eval: Whether batch norms keep their statistics in training.
        grad_checkpointing: Whether to recompute activations in backward instead of keeping them.
        pretrained: Whether timm loads the weights that it knows for the model.
        **model_args: Arguments of the model, e.g. `drop_path_rate` or `dilations`.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map.

    Raises:
        ValueError: stages that the model does not have.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norms: Optional[bool] = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        grad_checkpointing: bool = False,
        pretrained: bool = False,
        **model_args: Any,
    ):
        super().__init__()
        count = len(timm.create_model(model_name, device="meta", **model_args).feature_info)
        self.out_indices = tuple(out_indices)
        if not self.out_indices or any(not 0 <= i < count for i in self.out_indices):
            raise ValueError(f"out_indices must be stages of {model_name}, 0 to {count - 1}, got {list(out_indices)}")
        if not -1 <= frozen_stages <= count:
            raise ValueError(f"frozen_stages must be from -1 to {count} for {model_name}, got {frozen_stages}")
        self.body = timm.create_model(
            model_name,
            pretrained=pretrained,
            features_only=True,
            feature_cls="getter",
            out_indices=self.out_indices,
            **model_args,
        )
        self.channels: List[int] = self.body.feature_info.channels()
        self.strides: List[int] = self.body.feature_info.reduction()
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        if grad_checkpointing:
            self.body.model.set_grad_checkpointing(True)
        self._family = family_of(self.body.model)
        spec: Optional[OutputNorms] = getattr(self._family, "OUTPUT_NORMS", None)
        with_norms = spec is not None if output_norms is None else output_norms
        eps = spec.eps if spec is not None else 1e-6
        self.norms = nn.ModuleList(
            LayerNorm2d(channels, eps=eps) if with_norms else nn.Identity() for channels in self.channels
        )
        self._freeze()

    def load_released(self, state_dict: Mapping[str, Any]) -> List[str]:
        """Loads a released checkpoint of a classification or dense-prediction model, or our own of this module.

        Args:
            state_dict: As `visionattn.convert_checkpoint` takes it.

        Returns:
            Names of the parameters that the checkpoint has no values for (output norms, as a rule).

        Raises:
            ValueError: the checkpoint is of another model.
        """
        weights = unwrap(state_dict)
        if any(name.startswith("body.") for name in weights):
            self.load_state_dict(weights)
            return []
        spec: Optional[OutputNorms] = getattr(self._family, "OUTPUT_NORMS", None)
        loaded = {f"body.{name}": value for name, value in convert_checkpoint(weights, self.body).items()}
        for name, value in weights.items():
            match = re.search(spec.names, name) if spec is not None else None
            if match and int(match[1]) in self.out_indices:
                loaded[f"norms.{self.out_indices.index(int(match[1]))}.{match[2]}"] = value
        missing, unexpected = self.load_state_dict(loaded, strict=False)
        if unexpected:
            raise ValueError(f"state_dict has weights that the pyramid has no place for: {unexpected[:5]}")
        return missing

    def _frozen_modules(self) -> List[nn.Module]:
        network = self.body.model
        matcher = network.group_matcher(coarse=True)
        layers = timm.models.group_parameters(network, matcher, return_values=False, reverse=True)
        names = {name for name, layer in layers.items() if layer <= self.frozen_stages}
        return [
            module
            for module_name, module in network.named_modules()
            if any(True for _ in module.parameters())
            and all(f"{module_name}.{name}".lstrip(".") in names for name, _ in module.named_parameters())
        ]

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "FeaturePyramid":
        """Sets training mode, except for frozen stages and, with `norm_eval`, batch norms."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def forward(self, x: Tensor) -> List[Tensor]:
        """`[B, in_chans, H, W]` to the list of maps, NCHW and contiguous."""
        return [norm(feature).contiguous() for norm, feature in zip(self.norms, self.body(x))]
