"""UPerNet with VAN-B6 from ImageNet-22k on ADE20K, 160k: 54.7 mIoU over several scales in the paper."""

_base_ = "upernet_van_b0_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="van_b6", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/van_b6_22k.pth")),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
