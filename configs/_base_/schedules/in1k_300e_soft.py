"""As in1k_300e, in float32: 300 epochs, 10 of them warm-up, rates 1e-6 to 5e-5, clipped at 1, averaged weights."""

_base_ = "in1k_300e.py"

optim_wrapper = dict(amp=None, clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=5e-5, by_epoch=True, begin=10, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
custom_hooks = [dict(type="WeightAverage", decay=0.99996)]
