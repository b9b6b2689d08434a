"""As in1k_300e, but 300 epochs in all, 5 of them warm-up, to a rate of 1e-5; no clipping, averaged weights."""

_base_ = "in1k_300e.py"

optim_wrapper = dict(clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
custom_hooks = [dict(type="WeightAverage", decay=0.99992)]  # 0.99996 ** (1024 images / 512)
sync_bn = True
