"""As in1k_300e, LightViT's recipe: 300 epochs, 20 of them warm-up, to a rate of 1e-6; decay 0.04, no clipping."""

_base_ = "in1k_300e.py"

model = dict(mixup=dict(mixup_alpha=0.2))
optim_wrapper = dict(optimizer=dict(weight_decay=0.04), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
