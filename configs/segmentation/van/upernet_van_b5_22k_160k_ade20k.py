"""UPerNet with VAN-B5 from ImageNet-22k on ADE20K, 160k: 53.9 mIoU over several scales in the paper."""

_base_ = "upernet_van_b0_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="van_b5", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/van_b5_22k.pth")),
    decode_head=dict(in_channels=[96, 192, 480, 768]),
    auxiliary_head=dict(in_channels=480),
)
