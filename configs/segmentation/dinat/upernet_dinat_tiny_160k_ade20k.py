"""UPerNet with DiNAT-Tiny on ADE20K, 160k: 47.8 mIoU, 48.8 over several scales in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_tiny",
        drop_path_rate=0.3,
        dilations="ade512",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_tiny.pth"),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
