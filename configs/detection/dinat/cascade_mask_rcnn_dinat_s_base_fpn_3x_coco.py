"""Cascade Mask R-CNN with DiNAT_s-Base on COCO, 3x: 52.6 box AP, 45.3 mask AP in the paper.

The paper does not tell DiNAT_s's drop path here: DiNAT's of the same size.
"""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_s_base",
        drop_path_rate=0.6,
        dilations="coco",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_s_base.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
