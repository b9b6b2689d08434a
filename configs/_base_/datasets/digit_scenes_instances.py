"""Digits on photographs as instances: `python tools/make_digits_coco.py data/digits_coco` makes them.

No augmentation: colours, places and photographs vary enough by themselves.
"""

data_root = "data/digits_coco"

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type="CocoInstances",
        ann_file="annotations/instances_training.json",
        image_dir="images/training",
        transforms=[],
        skip_empty=True,
    ),
    sampler=dict(type="EpochSampler", shuffle=True),
    collate_fn=dict(type="list_collate"),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    dataset=dict(
        type="CocoInstances",
        ann_file="annotations/instances_validation.json",
        image_dir="images/validation",
        transforms=[],
    ),
    sampler=dict(type="EpochSampler", shuffle=False),
    collate_fn=dict(type="list_collate"),
)
test_dataloader = val_dataloader
