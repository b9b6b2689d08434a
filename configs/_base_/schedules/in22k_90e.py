"""ImageNet-22k from scratch: AdamW, linear decay over 90 epochs; 32 devices with 128 images each."""

model = dict(type="ImageClassifier", num_classes=21841, label_smoothing=0.1)
optim_wrapper = dict(
    type="PrecisionOptimWrapper",
    constructor="TimmParamGroups",
    amp="bfloat16",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="LinearLR", start_factor=1.0, end_factor=0.0, by_epoch=True, begin=5, end=90, convert_to_iter_based=True),
]
train_cfg = dict(type="EpochLoop", max_epochs=90, val_interval=5)
auto_scale_lr = dict(enable=False, base_batch_size=4096)
