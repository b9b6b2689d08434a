"""Mask R-CNN with RAVLT-L on COCO, 1x: 52.3 box AP, 46.4 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_l",
        drop_path_rate=0.55,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_l.pth"),
    ),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
sync_bn = "torch"
