"""UPerNet with NAT-Tiny on ADE20K, 160k: 47.1 mIoU, 48.4 over several scales in the paper."""

_base_ = "upernet_nat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="nat_tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/nat_tiny.pth"))
)
