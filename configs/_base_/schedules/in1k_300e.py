"""ImageNet-1k from scratch: AdamW, cosine over 300 epochs and 10 at the end rate; 8 devices with 128 images each."""

model = dict(
    type="ImageClassifier",
    num_classes=1000,
    label_smoothing=0.1,
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5),
)
optim_wrapper = dict(
    type="PrecisionOptimWrapper",
    constructor="TimmParamGroups",
    amp="float16",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=5e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
train_cfg = dict(type="EpochLoop", max_epochs=310, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=1024)
