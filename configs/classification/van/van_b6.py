"""VAN-B6, from ImageNet-22k to ImageNet-1k, 224x224."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in22k_to_in1k_30e_van.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="van_b6", model_args=dict(drop_path_rate=0.3))
