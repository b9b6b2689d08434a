"""UPerNet with DiNAT-Large on ADE20K, 160k: 54.0 mIoU, 54.9 over several scales in the paper.

Starts from ImageNet-22k weights at 224x224, our choice.
"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_640.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    data_preprocessor=dict(size=[640, 640]),
    backbone=dict(
        model_name="dinat_large",
        drop_path_rate=0.3,
        dilations="ade640",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_large_21k.pth"),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
