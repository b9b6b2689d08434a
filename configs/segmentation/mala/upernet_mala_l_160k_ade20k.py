"""UPerNet with MAViT-L on ADE20K, 160k."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_l.pth")
    ),
    decode_head=dict(in_channels=[96, 192, 448, 640]),
    auxiliary_head=dict(in_channels=448),
)
train_dataloader = dict(batch_size=1)
sync_bn = "torch"
