"""RetinaNet with L2ViT-Base on COCO, 1x."""

_base_ = "retinanet_l2vit_tiny_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="l2vit_base", drop_path_rate=0.2, init_cfg=dict(checkpoint="checkpoints/l2vit_base.pth")),
    neck=dict(in_channels=[256, 512, 1024]),
)
