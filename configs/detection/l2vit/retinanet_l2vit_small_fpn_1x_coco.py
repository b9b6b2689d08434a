"""RetinaNet with L2ViT-Small on COCO, 1x."""

_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_boxes_multiscale.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="l2vit_small",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/l2vit_small.pth"),
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=None)
