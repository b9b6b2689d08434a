"""AdamW and a cosine of 6 epochs, for digits on photographs."""

optim_wrapper = dict(
    type="PrecisionOptimWrapper",
    constructor="TimmParamGroups",
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=0.3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=0.3, end=6, convert_to_iter_based=True),
]
train_cfg = dict(type="EpochLoop", max_epochs=6, val_interval=1)
custom_hooks = [dict(type="WeightAverage", decay=0.99, warmup=True)]
