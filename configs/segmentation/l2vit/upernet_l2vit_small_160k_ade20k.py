"""UPerNet with L2ViT-Small on ADE20K, 160k."""

_base_ = "upernet_l2vit_tiny_160k_ade20k.py"

model = dict(backbone=dict(model_name="l2vit_small", init_cfg=dict(checkpoint="checkpoints/l2vit_small.pth")))
