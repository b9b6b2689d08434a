"""Cascade Mask R-CNN with RAVLT-S on COCO, 3x: 54.2 box AP, 46.8 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
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
