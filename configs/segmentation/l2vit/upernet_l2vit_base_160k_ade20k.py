"""UPerNet with L2ViT-Base on ADE20K, 160k."""

_base_ = "upernet_l2vit_tiny_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="l2vit_base", init_cfg=dict(checkpoint="checkpoints/l2vit_base.pth")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
