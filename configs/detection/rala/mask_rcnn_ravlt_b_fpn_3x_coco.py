"""Mask R-CNN with RAVLT-B on COCO, 3x: 52.7 box AP, 46.4 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_b.pth")
    ),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
sync_bn = "torch"
