"""Mask R-CNN with SOFT++-Tiny on COCO, 1x: 41.2 box AP, 38.2 mask AP in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="soft_norm_tiny",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/soft_norm_tiny.pth"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0002))
