"""UPerNet with DiNAT_s-Small on ADE20K, 160k: 48.6 mIoU, 49.9 over several scales in the paper."""

_base_ = "upernet_dinat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(
        model_name="dinat_s_small", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_s_small.pth")
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
