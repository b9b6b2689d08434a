"""Mask R-CNN with DiNAT-Small on COCO, 3x: 49.3 box AP, 44.0 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_small",
        drop_path_rate=0.35,
        dilations="coco",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_small.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
