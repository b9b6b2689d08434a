"""Mask R-CNN with VAN-B1 on COCO, 1x: 42.6 box AP, 38.9 mask AP in the paper.

The paper gives no recipe for detection: ours is Swin's, with the drop path of VAN's Semantic FPN.
"""

_base_ = "mask_rcnn_van_b0_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="van_b1", init_cfg=dict(checkpoint="checkpoints/van_b1.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
