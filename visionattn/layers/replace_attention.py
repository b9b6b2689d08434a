"""Other token mixers in the place of a ViT's attention, with the weights that it has."""

from typing import Any, Callable, Dict, List

from timm.layers import Attention
from torch import Tensor, nn

from visionattn.layers.token_mixers import (
    CircularAttention,
    FlowAttention,
    FocusedLinearAttention,
    HedgehogAttention,
    LinearAttention,
    LiTAttention,
    MobileAttention,
    TokenMixer,
)

__all__ = ["TOKEN_MIXERS", "replace_attention"]

TOKEN_MIXERS: Dict[str, Callable[..., TokenMixer]] = {
    "flow": FlowAttention,
    "mobile": MobileAttention,
    "linear_elu": LinearAttention,
    "hedgehog": HedgehogAttention,
    "lit": LiTAttention,
    "focused": FocusedLinearAttention,
    "clear": CircularAttention,
}
# Parts of timm's attention that stay, the very same modules.
_KEPT = ("qkv", "q_norm", "k_norm", "norm", "gate", "proj", "proj_drop")


class _SizeNote:
    """Forward hook of a patch embedding: tells mixers the grid. An object, so that copies of a model get their own."""

    def __init__(self, mixers: List[TokenMixer]):
        self.mixers = mixers

    def __call__(self, embed: nn.Module, inputs: Any, patches: Tensor) -> None:
        height, width = patches.shape[1:3] if patches.dim() == 4 else embed.grid_size
        for mixer in self.mixers:
            mixer.size = (height, width)


def replace_attention(model: nn.Module, name: str, **options: Any) -> nn.Module:
    """Swaps every softmax attention of a ViT for another token mixer, in place.

    Projections, norms of queries and keys, gates and all else stay as they are, under their names, so that weights load
    before and after; only parameters of the mixer itself are new. The mixer keeps working when the model changes its
    input size, except "focused", whose position embeddings are of one grid.

    Args:
        model: A model with blocks of timm's `Attention`, such as any `VisionTransformer` of timm.
        name: "flow", "mobile", "linear_elu", "hedgehog", "lit", "focused" or "clear".
        **options: Of the mixer's class in `visionattn.layers`, e.g. `radius` of "clear".

    Returns:
        `model`.

    Raises:
        TypeError: an option that the mixer does not have.
        ValueError: an unknown name, or a model without such attention.
    """
    if name not in TOKEN_MIXERS:
        raise ValueError(f"name must be one of {', '.join(map(repr, TOKEN_MIXERS))}, got {name!r}")
    places = [
        (parent, child, module)
        for parent in model.modules()
        for child, module in parent.named_children()
        if type(module) is Attention
    ]
    if not places:
        raise ValueError(f"model must have attention of timm's class Attention, {type(model).__name__} has none")
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "grid_size", None)
    prefix = getattr(model, "num_prefix_tokens", 0)
    mixers = []
    for parent, child, attention in places:
        parameter = attention.qkv.weight
        mixer = TOKEN_MIXERS[name](
            attention.attn_dim,
            attention.num_heads,
            size=size,
            num_prefix=prefix,
            device=parameter.device,
            dtype=parameter.dtype,
            **options,
        )
        for part in _KEPT:
            setattr(mixer, part, getattr(attention, part))
        setattr(parent, child, mixer.train(attention.training))
        mixers.append(mixer)
    if isinstance(embed, nn.Module) and size is not None:
        embed.register_forward_hook(_SizeNote(mixers))
    return model
