"""L2ViT-Base on ImageNet-22k, 224x224."""

_base_ = [
    "../../_base_/datasets/in22k.py",
    "../../_base_/schedules/in22k_90e_l2vit.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="l2vit_base", model_args=dict(drop_path_rate=0.2))
