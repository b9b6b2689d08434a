"""What every backbone owes timm, for networks of a stem, stages, a final norm and a head."""

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import torch
from timm.layers import get_device_dtype
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from visionattn.models._block import init_module
from visionattn.models._inputs import check_images

__all__ = ["Backbone", "Stage", "check_per_stage"]


def check_per_stage(depths: Sequence[int], **arguments: Sequence[Any]) -> None:
    """Checks that constructor arguments have as many entries as there are stages.

    Raises:
        ValueError: an argument has more or fewer.
    """
    for name, values in arguments.items():
        if len(values) != len(depths):
            raise ValueError(f"{name} must have one entry per stage, {len(depths)} as depths, got {tuple(values)}")


class Stage(nn.Module):
    """Downsampling, then blocks, then the norm of networks that have one at the end of each stage."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], norm: Optional[nn.Module] = None):
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x)


class Backbone(nn.Module):
    """Features, classifier and parameter groups by timm's names.

    A subclass builds in its constructor the modules `stem`, `stages` (a Sequential of `Stage`), `norm` (of the last
    map; Identity for none) and `head` (with `reset` as timm's heads have it), then calls `init_weights()`.

    Attributes:
        num_classes: Classes; 0 for no classifier.
        in_chans: Input channels.
        output_fmt: Layout of the final features: maps "NCHW" or "NHWC", or tokens "NLC".
        num_features: Channels of the last map.
        head_hidden_size: Width of what the classifier reads.
        feature_info: Per stage `num_chs`, `reduction` and `module`.
    """

    num_classes: int
    in_chans: int
    output_fmt: str
    num_features: int
    head_hidden_size: int
    feature_info: List[Dict[str, Any]]

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initializes every parameter, also after `to_empty()`."""
        self.apply(self.init_module)

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """The family's initialization of one module."""
        init_module(module)

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters besides biases and norms that the paper keeps from weight decay."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Parameter groups by depth, for layer-wise learning rates."""
        blocks = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.norm", (99999,)),
            (r"^norm", (99999,)),
        ]
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else blocks)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes activations in backward instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The final linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replaces the classifier; `global_pool=None` keeps the pooling."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features

    def _stem(self, x: Tensor) -> Tensor:
        return self.stem(check_images(x, self.in_chans))

    def _embed(self, x: Tensor) -> Tensor:
        """What the first stage takes."""
        return self._stem(x)

    def _as(self, x: Tensor, output_fmt: str) -> Tensor:
        own = "NCHW" if self.output_fmt == "NCHW" else "NHWC"  # maps made of tokens have their channels last
        if output_fmt == own:
            return x
        return (x.permute(0, 3, 1, 2) if output_fmt == "NCHW" else x.permute(0, 2, 3, 1)).contiguous()

    def _map(self, x: Tensor, stage: int, images: Tensor) -> Tensor:
        """The map in what stage `stage` gives for `images`; channels-last unless `output_fmt` is "NCHW"."""
        return x

    def _finish(self, x: Tensor) -> Tensor:
        """What the last stage gives as the final features."""
        return self.norm(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Union[List[Tensor], Tuple[Tensor, List[Tensor]]]:
        """Stage outputs, before the next downsampling.

        Args:
            x: `[B, in_chans, H, W]`.
            indices: Stages to return; None for all, an int for the last n.
            norm: Whether to apply the final norm to the last stage's output.
            stop_early: Whether to stop after the last stage that is asked for.
            output_fmt: Layout of the intermediates, "NCHW" or "NHWC".
            intermediates_only: Whether to leave out the final features.

        Returns:
            The list of intermediates, or the final features in the network's own layout and the list.
        """
        assert output_fmt in ("NCHW", "NHWC"), "Output format must be NCHW or NHWC."
        take, last = feature_take_indices(len(self.stages), indices)
        final = len(self.stages) - 1
        intermediates: List[Tensor] = []
        images = x
        x = self._embed(x)
        if torch.jit.is_scripting() or not stop_early:  # TorchScript can't slice a Sequential
            stages = self.stages
        else:
            stages = self.stages[: last + 1]
        for i, stage in enumerate(stages):
            x = stage(x)
            if i in take:
                feature = self._map(x, i, images)
                feature = self.norm(feature) if norm and i == final else feature
                intermediates.append(self._as(feature, output_fmt))
        if intermediates_only:
            return intermediates
        x = self._finish(x) if last == final or not stop_early else self._map(x, last, images)
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drops what the given stages' outputs do not need; returns their indices."""
        take, last = feature_take_indices(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if cut or prune_norm:
            self.norm = nn.Identity()
            if self.num_features != self.feature_info[last]["num_chs"]:  # the norm of some families changes them
                self.num_features = self.feature_info[last]["num_chs"]
                self.head.reset(0, "", reset_other=True, in_features=self.num_features)
        if cut or prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """`[B, in_chans, H, W]` to the normed final map, in the network's own layout."""
        return self._finish(self.stages(self._embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools and classifies the final map."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
