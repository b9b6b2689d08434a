"""Mask R-CNN with MAViT-L on COCO, 1x."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_l.pth")
    ),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0004))
sync_bn = "torch"
