"""Mask R-CNN with VAN-B3 on COCO, 1x: 48.3 box AP, 43.4 mask AP in the paper.

The paper gives no recipe for detection: ours is Swin's, with the drop path of VAN's Semantic FPN.
"""

_base_ = "mask_rcnn_van_b0_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="van_b3", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/van_b3.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
