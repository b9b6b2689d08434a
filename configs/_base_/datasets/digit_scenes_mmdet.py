"""Digits on photographs as instances: `python tools/make_digits_coco.py data/digits_coco` makes them.

No mirroring, a digit has its handedness.
"""

data_root = "data/digits_coco"

_load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
_dataset = dict(type="CocoDataset", data_root=data_root, metainfo=dict(classes=list("0123456789")))

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **_dataset,
        ann_file="annotations/instances_training.json",
        data_prefix=dict(img="images/training"),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[*_load, dict(type="PackDetInputs")],
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **_dataset,
        ann_file="annotations/instances_validation.json",
        data_prefix=dict(img="images/validation"),
        test_mode=True,
        pipeline=[
            *_load,
            dict(type="Resize", scale=(160, 160), keep_ratio=True),  # nothing to do, but the detector asks by how much
            dict(type="PackDetInputs"),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric", ann_file=f"{data_root}/annotations/instances_validation.json", metric=["bbox", "segm"]
)
test_evaluator = val_evaluator
