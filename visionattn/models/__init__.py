"""Backbone families; importing this package registers their variants with timm."""

from visionattn.models import nat, nat_isotropic, soft, van

__all__ = ["nat", "nat_isotropic", "soft", "van"]
