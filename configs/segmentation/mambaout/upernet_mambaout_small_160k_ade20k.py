"""UPerNet with MambaOut-Small on ADE20K, 160k: 49.5 mIoU, 50.6 over several scales in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="mambaout_small",
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mambaout_small.pth"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 576]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(optimizer=dict(lr=0.0001))
