"""UPerNet with NAT-Small on ADE20K, 160k: 48.0 mIoU, 49.5 over several scales in the paper."""

_base_ = "upernet_nat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="nat_small", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/nat_small.pth")),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
