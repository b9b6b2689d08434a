"""UPerNet with DiNAT-Base on ADE20K, 160k: 49.6 mIoU, 50.4 over several scales in the paper."""

_base_ = "upernet_dinat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="dinat_base", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/dinat_base.pth")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
