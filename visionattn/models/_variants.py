"""Variants are data: a table of constructor arguments becomes timm entry points, each with its short alias."""

import sys
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from torch import nn

__all__ = ["imagenet_cfg", "register_variants", "short_name"]

_SHORT_WORDS = {"mini": "m", "tiny": "t", "small": "s", "base": "b", "large": "l", "isotropic": "iso"}


def imagenet_cfg(reduction: int, size: int = 224, crop_pct: float = 0.875, **fields: Any) -> Dict[str, Any]:
    """timm's description of a model evaluated on ImageNet-1k.

    Args:
        reduction: Input size over the size of the last map.
        size: Side of the square input, in pixels.
        crop_pct: Part of the resized image's side that evaluation keeps.
        **fields: More fields of `timm.models.PretrainedCfg`, or other values than the ones here.
    """
    cfg = dict(
        num_classes=1000,
        input_size=(3, size, size),
        pool_size=(size // reduction, size // reduction),
        crop_pct=crop_pct,
        interpolation="bicubic",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        classifier="head.fc",
    )
    return dict(cfg, **fields)


def short_name(variant: str) -> str:
    """The short alias of a paper's name: `dinat_large_384` -> `dinat_l_384`; unchanged if nothing is to shorten."""
    return "_".join(_SHORT_WORDS.get(word, word) for word in variant.split("_"))


def register_variants(
    module: str,
    create: Callable[..., nn.Module],
    variants: Mapping[str, Dict[str, Any]],
    aliases: Optional[Mapping[str, Sequence[str]]] = None,
) -> None:
    """Registers every variant with timm under its name and its aliases, as functions of `module`.

    An alias builds the same model with the configuration and the tags of the full name.

    Args:
        module: `__name__` of the model file; its `default_cfgs` must already hold the variants.
        create: Called as `create(variant, pretrained, **kwargs)`.
        variants: Variant name to constructor arguments, which a caller's keyword arguments override.
        aliases: Variant to further names of it; `short_name` of each name is an alias, too.
    """
    for variant, arguments in variants.items():
        names = (variant, *(aliases or {}).get(variant, ()))
        for name in dict.fromkeys((*names, *map(short_name, names))):
            entry = _entry_point(module, name, variant, create, arguments)
            setattr(sys.modules[module], name, register_model(entry))


def _entry_point(
    module: str, name: str, variant: str, create: Callable[..., nn.Module], arguments: Dict[str, Any]
) -> Callable[..., nn.Module]:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create(variant, pretrained, **dict(arguments, **kwargs))

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = module  # timm finds default_cfgs through it
    entry.__doc__ = f"{variant} as a timm model; keyword arguments go to its class."
    return entry
