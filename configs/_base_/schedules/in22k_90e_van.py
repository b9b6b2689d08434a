"""ImageNet-22k: cosine over 90 epochs from 4e-3 to 1e-6; 32 devices with 128 images each, two batches a step."""

_base_ = "in22k_90e.py"

model = dict(mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5))
optim_wrapper = dict(accumulative_counts=2, optimizer=dict(lr=4e-3, weight_decay=0.05), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=2.5e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=5, end=90, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=8192)
