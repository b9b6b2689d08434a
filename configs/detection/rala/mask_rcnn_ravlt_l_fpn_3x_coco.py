"""Mask R-CNN with RAVLT-L on COCO, 3x: 53.6 box AP, 47.3 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
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
train_dataloader = dict(batch_size=1)
sync_bn = "torch"
