"""Semantic FPN with DualToken-ViT-Mini on ADE20K, 80k.

The authors' code is not public: the recipe is Swin's, on the three maps there are.
"""

_base_ = [
    "../../_base_/models/semantic_fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="dualtoken_vit_mini",
        out_indices=[0, 1, 2],
        drop_path_rate=0.1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dualtoken_vit_mini.pth"),
    ),
    neck=dict(in_channels=[32, 96, 256], num_outs=3),
    decode_head=dict(in_channels=[256, 256, 256], in_index=[0, 1, 2], feature_strides=[8, 16, 32]),
)
