"""As in1k_300e, with 50 epochs of warm-up and averaged weights."""

_base_ = "in1k_300e.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=50, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=5e-6, by_epoch=True, begin=50, end=300, convert_to_iter_based=True),
]
custom_hooks = [dict(type="WeightAverage", decay=0.9998)]
