"""As in1k_300e in float32, with 5 epochs of warm-up, down to a rate of 1e-6, no clipping.

Set `optim_wrapper.clip_grad.max_norm` should a large variant diverge: its attention is quadratic in the activations.
"""

_base_ = "in1k_300e.py"

optim_wrapper = dict(amp=None, clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
