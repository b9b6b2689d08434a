"""Cascade Mask R-CNN with DiNAT-Small on COCO, 3x: 52.9 box AP, 45.8 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_small",
        drop_path_rate=0.5,
        dilations="coco",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_small.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
