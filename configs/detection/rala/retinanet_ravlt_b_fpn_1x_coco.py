"""RetinaNet with RAVLT-B on COCO, 1x: 49.8 AP in the paper."""

_base_ = [
    "../../_base_/models/retinanet.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_b.pth")
    ),
    neck=dict(in_channels=[192, 384, 512]),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.0001), paramwise_cfg=None)
sync_bn = "torch"
