"""UPerNet with NAT-Base on ADE20K, 160k: 48.5 mIoU, 49.7 over several scales in the paper."""

_base_ = "upernet_nat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="nat_base", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/nat_base.pth")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
