"""RetinaNet with L2ViT-Base on COCO, 3x."""

_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_boxes_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="l2vit_base",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/l2vit_base.pth"),
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)
optim_wrapper = dict(paramwise_cfg=None)
