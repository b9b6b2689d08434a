"""Cascade Mask R-CNN with MAViT-B on COCO, 3x: 55.5 box AP, 48.0 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="mala_b", drop_path_rate=0.4, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_b.pth")
    ),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0004))
sync_bn = "torch"
