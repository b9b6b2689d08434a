"""Mask R-CNN with RAVLT-B on COCO, 1x: 51.2 box AP, 45.7 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_b.pth")
    ),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
sync_bn = "torch"
