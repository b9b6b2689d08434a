"""Mask R-CNN with RAVLT-T on COCO, 1x: 47.3 box AP, 42.7 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_t", drop_path_rate=0.1, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_t.pth")
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
sync_bn = "torch"
