"""As in1k_300e, at a rate of 4e-3 for 4,096 images, with 5 epochs of warm-up; no clipping, averaged weights."""

_base_ = "in1k_300e.py"

optim_wrapper = dict(optimizer=dict(lr=4e-3), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=2.5e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
custom_hooks = [dict(type="WeightAverage", decay=0.99995)]
auto_scale_lr = dict(base_batch_size=4096)
