"""ADE20K as `ade20k.py` has it; test images are resized to multiples of 32 (VAN's evaluation)."""

_base_ = "ade20k.py"

load_image, resize, *rest = _base_.test_pipeline
test_pipeline = [load_image, resize, dict(type="ResizeToMultiple", size_divisor=32), *rest]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
