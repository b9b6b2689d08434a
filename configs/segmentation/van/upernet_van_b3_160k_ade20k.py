"""UPerNet with VAN-B3 on ADE20K, 160k: 50.6 mIoU over several scales in the paper."""

_base_ = "upernet_van_b0_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="van_b3", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/van_b3.pth")),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
