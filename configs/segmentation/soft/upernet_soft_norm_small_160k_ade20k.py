"""UPerNet with SOFT++-Small on ADE20K, 160k: 46.2 mIoU in the paper.

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
        model_name="soft_norm_small",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/soft_norm_small.pth"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
