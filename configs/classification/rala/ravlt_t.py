"""RAVLT-T on ImageNet-1k, 224x224."""

_base_ = [
    "../../_base_/datasets/in1k_repeated.py",
    "../../_base_/schedules/in1k_300e_rala.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="ravlt_t", model_args=dict(drop_path_rate=0.1))
