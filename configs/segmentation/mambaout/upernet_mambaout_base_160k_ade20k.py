"""UPerNet with MambaOut-Base on ADE20K, 160k: 49.6 mIoU, 51.0 over several scales in the paper."""

_base_ = "upernet_mambaout_tiny_160k_ade20k.py"

model = dict(
    backbone=dict(
        model_name="mambaout_base", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/mambaout_base.pth")
    ),
    decode_head=dict(in_channels=[128, 256, 512, 768]),
    auxiliary_head=dict(in_channels=512),
)
