"""RetinaNet with RAVLT-S on COCO, 1x: 48.3 AP in the paper."""

_base_ = [
    "../../_base_/models/retinanet.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_s",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_s.pth"),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.0001), paramwise_cfg=None)
sync_bn = "torch"
