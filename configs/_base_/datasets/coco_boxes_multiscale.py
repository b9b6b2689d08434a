"""COCO boxes with DETR's policy: short side 480 to 800, half of the images cropped before."""

_base_ = "coco_instance_multiscale.py"

load_image, _, *augment = _base_.train_pipeline
train_pipeline = [load_image, dict(type="LoadAnnotations", with_bbox=True), *augment]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
