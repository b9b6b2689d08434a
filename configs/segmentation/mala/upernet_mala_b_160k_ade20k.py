"""UPerNet with MAViT-B on ADE20K, 160k."""

_base_ = "upernet_mala_t_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="mala_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/mala_b.pth")),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384),
)
