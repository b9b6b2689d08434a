"""Mask R-CNN with DiNAT_s-Tiny on COCO, 3x: 46.6 box AP, 42.1 mask AP in the paper.

The paper does not tell DiNAT_s's drop path here: DiNAT's of the same size.
"""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_s_tiny",
        drop_path_rate=0.2,
        dilations="coco",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_s_tiny.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
