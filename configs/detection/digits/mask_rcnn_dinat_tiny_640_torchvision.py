"""Mask R-CNN on DiNAT-Tiny from scratch, for digits on photographs of 640 pixels."""

_base_ = [
    "../../_base_/datasets/digit_scenes_instances_640.py",
    "../../_base_/schedules/digit_scenes.py",
    "../../_base_/runtime/detection.py",
]

model = dict(
    type="Detector",
    method="mask_rcnn",
    name="dinat_tiny",
    num_classes=10,
    model_args=dict(min_size=640, max_size=640, dilations="ade640", drop_path_rate=0.1, box_detections_per_img=50),
)
optim_wrapper = dict(amp="bfloat16", optimizer=dict(lr=4e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=4e-6, by_epoch=True, begin=1, end=12, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=12, val_interval=3)
