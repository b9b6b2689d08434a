"""RetinaNet with L2ViT-Small on COCO, 1x."""

_base_ = "retinanet_l2vit_tiny_fpn_1x_coco.py"

model = dict(backbone=dict(model_name="l2vit_small", init_cfg=dict(checkpoint="checkpoints/l2vit_small.pth")))
