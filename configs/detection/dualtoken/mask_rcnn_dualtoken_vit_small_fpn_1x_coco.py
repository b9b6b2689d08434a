"""Mask R-CNN with DualToken-ViT-Small on COCO, 1x.

The authors' code is not public: the recipe is LightViT's, on which the family builds.
"""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="dualtoken_vit_small",
        out_indices=[0, 1, 2],
        drop_path_rate=0.1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dualtoken_vit_small.pth"),
    ),
    neck=dict(_delete_=True, type="FinerFPN", in_channels=[64, 128, 256], out_channels=256),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.0002, weight_decay=0.04),
    paramwise_cfg=dict(custom_keys=dict(global_tokens=dict(decay_mult=0.0))),
)
