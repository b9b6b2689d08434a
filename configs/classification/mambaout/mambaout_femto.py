"""MambaOut-Femto on ImageNet-1k, 224x224."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in1k_300e_mambaout.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="mambaout_femto", model_args=dict(drop_path_rate=0.025))
