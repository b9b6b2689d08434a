"""UPerNet with SOFT++-Medium on ADE20K, 160k: 48.0 mIoU in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="soft_norm_medium",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/soft_norm_medium.pth"),
    ),
    decode_head=dict(in_channels=[64, 128, 288, 512]),
    auxiliary_head=dict(in_channels=288),
)
