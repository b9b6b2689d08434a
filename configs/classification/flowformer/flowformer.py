"""Flowformer on ImageNet-1k, 224x224."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in1k_300e_flowformer.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="flowformer", model_args=dict(drop_path_rate=0.2))
train_dataloader = dict(dataset=dict(transform=dict(re_prob=0.0)))
