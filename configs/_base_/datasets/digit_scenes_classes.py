"""Digits on photographs as classes, one to three in 96 pixels:
`python tools/make_digits_coco.py data/digits_coco_96 --size 96 --digits 1 3 --scale 0.45 0.75 --train 7200` makes them.

No augmentation: colours, places and photographs vary enough by themselves.
"""

data_root = "data/digits_coco_96"

_classes = ["photograph", *"0123456789"]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type="SemanticFolder",
        split="training",
        classes=_classes,
        transforms=[],
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
