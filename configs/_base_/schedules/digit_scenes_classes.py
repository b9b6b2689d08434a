"""The same for 4 epochs of the smaller scenes of segmenters."""

_base_ = "digit_scenes.py"

optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=0.1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=0.1, end=4, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=4, val_interval=1)
