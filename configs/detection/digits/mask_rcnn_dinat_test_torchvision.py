"""Mask R-CNN on a small DiNAT, for digits on photographs: minutes on a CPU."""

_base_ = [
    "../../_base_/datasets/digit_scenes_instances.py",
    "../../_base_/models/mask_rcnn_small_torchvision.py",
    "../../_base_/schedules/digit_scenes.py",
    "../../_base_/runtime/detection.py",
]

model = dict(name="dinat_test")
