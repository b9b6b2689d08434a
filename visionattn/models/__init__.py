"""Backbone families; importing this package registers their variants with timm."""

from visionattn.models import attnet, dualtoken, flowformer, l2vit, mala, nat, nat_isotropic, rala, soft, van
from visionattn.models import mambaout as mambaout  # its variants are timm's own, so it is no family to list

__all__ = ["attnet", "dualtoken", "flowformer", "l2vit", "mala", "nat", "nat_isotropic", "rala", "soft", "van"]
