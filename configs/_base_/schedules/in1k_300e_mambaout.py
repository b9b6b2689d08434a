"""As in1k_300e in float32, at a rate of 4e-3; 8 devices with 128 images each, four batches a step; no clipping."""

_base_ = "in1k_300e.py"

optim_wrapper = dict(amp=None, accumulative_counts=4, optimizer=dict(lr=4e-3), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=2.5e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4096)
