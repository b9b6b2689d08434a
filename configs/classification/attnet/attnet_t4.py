"""AttNet-T4 on ImageNet-1k, 224x224."""

_base_ = [
    "../../_base_/datasets/in1k_repeated.py",
    "../../_base_/schedules/in1k_300e_attnet.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="attnet_t4", model_args=dict(drop_path_rate=0.5))
