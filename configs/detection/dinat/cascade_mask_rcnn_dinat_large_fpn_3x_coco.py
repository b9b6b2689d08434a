"""Cascade Mask R-CNN with DiNAT-Large on COCO, 3x: 55.3 box AP, 47.8 mask AP in the paper.

Starts from ImageNet-22k weights at 224x224, our choice.
"""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_large",
        drop_path_rate=0.6,
        dilations="coco",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_large_21k.pth"),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=7.5e-05))
