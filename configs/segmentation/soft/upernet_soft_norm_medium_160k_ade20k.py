"""UPerNet with SOFT++-Medium on ADE20K, 160k: 48.0 mIoU in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = "upernet_soft_norm_small_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="soft_norm_medium", init_cfg=dict(checkpoint="checkpoints/soft_norm_medium.pth")),
    decode_head=dict(in_channels=[64, 128, 288, 512]),
    auxiliary_head=dict(in_channels=288),
)
