"""Mask R-CNN with MambaOut-Small on COCO, 1x: 47.4 box AP, 42.7 mask AP in the paper.

The paper does not tell the drop path here: the one of classification. Nor weight decay: Swin's.
"""

_base_ = "mask_rcnn_mambaout_tiny_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        model_name="mambaout_small", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/mambaout_small.pth")
    )
)
