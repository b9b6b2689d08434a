"""Cascade Mask R-CNN with MAViT-S on COCO, 3x."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="mala_s", drop_path_rate=0.15, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_s.pth")
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0004))
sync_bn = "torch"
