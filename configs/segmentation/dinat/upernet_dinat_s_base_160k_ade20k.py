"""UPerNet with DiNAT_s-Base on ADE20K, 160k: 49.4 mIoU, 50.2 over several scales in the paper."""

_base_ = "upernet_dinat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(
        model_name="dinat_s_base", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_s_base.pth")
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
