"""UPerNet with MAViT-L on ADE20K, 160k."""

_base_ = "upernet_mala_t_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/mala_l.pth")),
    decode_head=dict(in_channels=[96, 192, 448, 640]),
    auxiliary_head=dict(in_channels=448),
)
train_dataloader = dict(batch_size=1)
