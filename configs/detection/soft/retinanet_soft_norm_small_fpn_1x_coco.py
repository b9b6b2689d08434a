"""RetinaNet with SOFT++-Small on COCO, 1x: 42.8 AP in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = [
    "../../_base_/models/retinanet.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="soft_norm_small",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/soft_norm_small.pth"),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
