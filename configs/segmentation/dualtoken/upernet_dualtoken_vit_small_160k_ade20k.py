"""UPerNet with DualToken-ViT-Small on ADE20K, 160k.

The authors' code is not public: the recipe is Swin's, on the three maps there are.
"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="dualtoken_vit_small",
        out_indices=[0, 1, 2],
        drop_path_rate=0.1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dualtoken_vit_small.pth"),
    ),
    decode_head=dict(in_channels=[64, 128, 256], in_index=[0, 1, 2]),
    auxiliary_head=dict(in_channels=128, in_index=1),
)
