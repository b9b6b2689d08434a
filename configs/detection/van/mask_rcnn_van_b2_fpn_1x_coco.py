"""Mask R-CNN with VAN-B2 on COCO, 1x: 46.4 box AP, 41.8 mask AP in the paper.

The paper gives no recipe for detection: ours is Swin's, with the drop path of VAN's Semantic FPN.
"""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="van_b2",
        drop_path_rate=0.2,
        norm_eps=1e-05,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/van_b2.pth"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
sync_bn = "torch"
