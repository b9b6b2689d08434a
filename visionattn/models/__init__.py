"""Backbone families; importing this package registers their variants with timm."""

from visionattn.models import l2vit, mala, nat, nat_isotropic, rala, soft, van

__all__ = ["l2vit", "mala", "nat", "nat_isotropic", "rala", "soft", "van"]
