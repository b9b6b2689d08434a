"""UPerNet with RAVLT-L on ADE20K, 160k: 53.2 mIoU in the paper."""

_base_ = "upernet_ravlt_s_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="ravlt_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/ravlt_l.pth")),
    decode_head=dict(in_channels=[96, 192, 448, 640]),
    auxiliary_head=dict(in_channels=448),
)
