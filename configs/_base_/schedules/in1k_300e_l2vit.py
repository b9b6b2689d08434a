"""As in1k_300e, in float32: 300 epochs, rate 4e-3 to 1e-6, averaged weights; 32 devices with 128 images each."""

_base_ = "in1k_300e.py"

optim_wrapper = dict(amp=None, optimizer=dict(lr=4e-3), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
custom_hooks = [dict(type="WeightAverage", decay=0.9999)]
auto_scale_lr = dict(base_batch_size=4096)
