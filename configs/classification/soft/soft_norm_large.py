"""SOFT++, Large, on ImageNet-1k, 224x224; drop paths act on elements in three stages."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in1k_300e_soft.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="soft_norm_large", model_args=dict(drop_path_rate=0.1))
optim_wrapper = dict(optimizer=dict(lr=3.3e-4))  # per 1024 images
