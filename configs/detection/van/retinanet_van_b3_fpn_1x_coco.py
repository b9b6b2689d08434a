"""RetinaNet with VAN-B3 on COCO, 1x: 47.5 AP in the paper.

The paper gives no recipe for detection: ours is Swin's, with the drop path of VAN's Semantic FPN.
"""

_base_ = [
    "../../_base_/models/retinanet.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="van_b3",
        drop_path_rate=0.3,
        norm_eps=1e-05,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/van_b3.pth"),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
sync_bn = "torch"
