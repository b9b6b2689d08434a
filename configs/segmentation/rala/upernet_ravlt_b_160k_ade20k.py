"""UPerNet with RAVLT-B on ADE20K, 160k: 52.5 mIoU in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_b.pth")
    ),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384),
)
sync_bn = "torch"
