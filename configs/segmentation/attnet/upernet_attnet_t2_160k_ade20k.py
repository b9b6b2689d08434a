"""UPerNet with AttNet-T2 on ADE20K, 160k.

The paper has no dense prediction: the recipe is Swin's, with a layer norm on every output.
"""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="attnet_t2",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/attnet_t2.pth"),
    ),
    decode_head=dict(in_channels=[64, 128, 288, 512]),
    auxiliary_head=dict(in_channels=288),
)
sync_bn = "torch"
