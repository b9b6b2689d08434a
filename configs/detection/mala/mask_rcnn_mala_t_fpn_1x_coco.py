"""Mask R-CNN with MAViT-T on COCO, 1x."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="mala_t", drop_path_rate=0.1, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_t.pth")
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0004))
sync_bn = "torch"
