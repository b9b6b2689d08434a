"""Fine-tuning of an ImageNet-22k model on ImageNet-1k: cosine over 30 epochs from 5e-5; 8 times 64 images.

Set `model.checkpoint` to the ImageNet-22k weights.
"""

_base_ = "in22k_to_in1k_30e.py"

model = dict(model_args=dict(drop_path_rate=0.2))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-8), clip_grad=None)
param_scheduler = [
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=0, end=30, convert_to_iter_based=True)
]
