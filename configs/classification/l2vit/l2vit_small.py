"""L2ViT-Small on ImageNet-1k, 224x224. The paper does not state the drop path rate."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in1k_300e_l2vit.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="l2vit_small", model_args=dict(drop_path_rate=0.2))
