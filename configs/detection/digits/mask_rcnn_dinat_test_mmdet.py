"""mmdetection's Mask R-CNN on a small DiNAT, for digits on photographs: minutes on a CPU."""

_base_ = [
    "../../_base_/models/mask_rcnn_small_mmdet.py",
    "../../_base_/datasets/digit_scenes_mmdet.py",
    "../../_base_/schedules/digit_scenes_mmdet.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(backbone=dict(model_name="dinat_test"), neck=dict(in_channels=[32, 64, 128]))
