"""Digits on photographs as classes: `python tools/make_digits_coco.py data/digits_coco` makes them.

No mirroring, a digit has its handedness.
"""

data_root = "data/digits_coco"

_classes = ["photograph", *"0123456789"]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type="SemanticFolder",
        split="training",
        classes=_classes,
        transforms=[dict(type="RandomPhotometricDistort", p=0.5)],
    ),
    sampler=dict(type="EpochSampler", shuffle=True),
    collate_fn=dict(type="list_collate"),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    dataset=dict(type="SemanticFolder", split="validation", classes=_classes, transforms=[]),
    sampler=dict(type="EpochSampler", shuffle=False),
    collate_fn=dict(type="list_collate"),
)
test_dataloader = val_dataloader
