"""Fine-tuning of an ImageNet-22k model on ImageNet-1k: linear decay over 30 epochs, no mixing; 8 times 64 images.

Set `model.checkpoint` to the ImageNet-22k weights.
"""

model = dict(type="ImageClassifier", num_classes=1000, label_smoothing=0.1, model_args=dict(drop_path_rate=0.35))
optim_wrapper = dict(
    type="PrecisionOptimWrapper",
    constructor="TimmParamGroups",
    optimizer=dict(type="AdamW", lr=5e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1.0, end_factor=0.0, by_epoch=True, begin=0, end=30, convert_to_iter_based=True)
]
train_cfg = dict(type="EpochLoop", max_epochs=30, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=512)
