"""SOFT, small of the released code, on ImageNet-1k, 224x224; drop paths act on elements in three stages."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in1k_300e_soft.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="soft_small", model_args=dict(drop_path_rate=0.1))
