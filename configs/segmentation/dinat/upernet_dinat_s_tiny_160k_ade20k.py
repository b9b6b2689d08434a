"""UPerNet with DiNAT_s-Tiny on ADE20K, 160k: 46.0 mIoU, 47.4 over several scales in the paper."""

_base_ = "upernet_dinat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(
        model_name="dinat_s_tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_s_tiny.pth")
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
