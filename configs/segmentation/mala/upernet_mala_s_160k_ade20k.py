"""UPerNet with MAViT-S on ADE20K, 160k."""

_base_ = "upernet_mala_t_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="mala_s", drop_path_rate=0.15, init_cfg=dict(checkpoint="checkpoints/mala_s.pth")),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
