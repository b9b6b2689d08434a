"""Mask R-CNN with AttNet-T2 on COCO, 1x.

The paper has no dense prediction: the recipe is Swin's, with a layer norm on every output.
"""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="attnet_t2",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/attnet_t2.pth"),
    ),
    neck=dict(in_channels=[64, 128, 288, 512]),
)
sync_bn = "torch"
