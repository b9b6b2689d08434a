"""UPerNet with DiNAT_s-Small on ADE20K, 160k: 48.6 mIoU, 49.9 over several scales in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="dinat_s_small",
        drop_path_rate=0.3,
        dilations="ade512",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_s_small.pth"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
