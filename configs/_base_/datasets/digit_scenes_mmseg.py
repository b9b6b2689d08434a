"""Digits on photographs as classes, one to three in 96 pixels:
`python tools/make_digits_coco.py data/digits_coco_96 --size 96 --digits 1 3 --scale 0.45 0.75 --train 7200` makes them.

No augmentation: colours, places and photographs vary enough by themselves.
"""

data_root = "data/digits_coco_96"

_load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
_dataset = dict(type="BaseSegDataset", data_root=data_root, metainfo=dict(classes=["photograph", *"0123456789"]))

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=[*_load, dict(type="PackSegInputs")],
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **_dataset,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=[*_load, dict(type="PackSegInputs")],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
