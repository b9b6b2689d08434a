"""Cascade Mask R-CNN with DiNAT-Tiny on COCO, 3x: 52.2 box AP, 45.1 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_tiny",
        drop_path_rate=0.3,
        dilations="coco",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_tiny.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
