"""RetinaNet with MAViT-L on COCO, 1x."""

_base_ = [
    "../../_base_/models/retinanet.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_l.pth")
    ),
    neck=dict(in_channels=[192, 448, 640]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0004, weight_decay=0.0001), paramwise_cfg=None)
sync_bn = "torch"
