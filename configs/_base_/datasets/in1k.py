"""ImageNet-1k in `data_root/{train,val}/<class>/`, augmented as the papers do; image size and crop are the model's."""

data_root = "data/imagenet"

_augment = dict(
    auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4, re_prob=0.25, re_mode="pixel", interpolation="bicubic"
)
_loader = dict(num_workers=8, persistent_workers=True, pin_memory=True, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    batch_size=128,
    dataset=dict(type="ImageFolder", root=data_root, split="train", transform=_augment),
    sampler=dict(type="EpochSampler", shuffle=True),
    **_loader,
)
val_dataloader = dict(
    batch_size=128,
    dataset=dict(type="ImageFolder", root=data_root, split="val", transform=dict()),
    sampler=dict(type="EpochSampler", shuffle=False),
    **_loader,
)
test_dataloader = val_dataloader
