"""Cascade Mask R-CNN with MAViT-L on COCO, 3x."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_l.pth")
    ),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0002))
train_dataloader = dict(batch_size=1)
sync_bn = "torch"
