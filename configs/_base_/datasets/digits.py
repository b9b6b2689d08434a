"""scikit-learn's handwritten digits, enlarged to 32x32; no mirroring, a digit has its handedness."""

data_config = dict(input_size=(3, 32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1.0)

_train = dict(hflip=0.0, scale=(0.8, 1.0), ratio=(0.9, 1.11), color_jitter=0.0, re_prob=0.1)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(type="Digits", split="train", size=32, transform=_train),
    sampler=dict(type="EpochSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(type="Digits", split="val", size=32, transform=dict()),
    sampler=dict(type="EpochSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
test_dataloader = val_dataloader
