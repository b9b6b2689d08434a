"""Mask R-CNN with RAVLT-S on COCO, 1x: 49.8 box AP, 44.6 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_s",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_s.pth"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
sync_bn = "torch"
