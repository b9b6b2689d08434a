"""UPerNet with RAVLT-B on ADE20K, 160k: 52.5 mIoU in the paper."""

_base_ = "upernet_ravlt_s_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/ravlt_b.pth")),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384),
)
