"""Backbone families; importing this package registers their variants with timm."""

from visionattn.models import attnet, l2vit, mala, nat, nat_isotropic, rala, soft, van

__all__ = ["attnet", "l2vit", "mala", "nat", "nat_isotropic", "rala", "soft", "van"]
