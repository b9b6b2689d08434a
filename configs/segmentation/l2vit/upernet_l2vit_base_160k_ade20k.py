"""UPerNet with L2ViT-Base on ADE20K, 160k."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="l2vit_base",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/l2vit_base.pth"),
    ),
    decode_head=dict(norm_cfg=dict(type="BN", requires_grad=True), in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(norm_cfg=dict(type="BN", requires_grad=True), in_channels=512),
)
optim_wrapper = dict(paramwise_cfg=None)
