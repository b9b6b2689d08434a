"""UPerNet with VAN-B6 from ImageNet-22k on ADE20K, 160k: 54.7 mIoU over several scales in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_multiple_of_32.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="van_b6",
        drop_path_rate=0.5,
        norm_eps=1e-05,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/van_b6_22k.pth"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
sync_bn = "torch"
