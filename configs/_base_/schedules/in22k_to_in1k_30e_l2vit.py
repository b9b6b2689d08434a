"""Fine-tuning of an ImageNet-22k model on ImageNet-1k: cosine over 30 epochs from 4e-5; 8 times 128 images.

Set `model.checkpoint` to the ImageNet-22k weights.
"""

_base_ = "in22k_to_in1k_30e.py"

model = dict(mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5), model_args=dict(drop_path_rate=0.2))
optim_wrapper = dict(optimizer=dict(lr=4e-5, weight_decay=1e-8), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=4e-7, by_epoch=True, begin=5, end=30, convert_to_iter_based=True),
]
custom_hooks = [dict(type="WeightAverage", decay=0.9999)]
auto_scale_lr = dict(base_batch_size=1024)
