"""Cascade Mask R-CNN with DiNAT-Base on COCO, 3x: 53.4 box AP, 46.2 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_base",
        drop_path_rate=0.6,
        dilations="coco",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_base.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
