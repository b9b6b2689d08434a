"""Mask R-CNN with VAN-B2 on COCO, 1x: 46.4 box AP, 41.8 mask AP in the paper.

The paper gives no recipe for detection: ours is Swin's, with the drop path of VAN's Semantic FPN.
"""

_base_ = "mask_rcnn_van_b0_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="van_b2", init_cfg=dict(checkpoint="checkpoints/van_b2.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
