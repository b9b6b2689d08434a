"""UPerNet with MAViT-T on ADE20K, 160k."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="mala_t", drop_path_rate=0.1, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_t.pth")
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
sync_bn = "torch"
