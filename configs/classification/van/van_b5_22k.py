"""VAN-B5 on ImageNet-22k, 224x224."""

_base_ = [
    "../../_base_/datasets/in22k.py",
    "../../_base_/schedules/in22k_90e_van.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="van_b5", model_args=dict(drop_path_rate=0.1))
test_evaluator = [dict(type="TopKAccuracy", topk=(1, 5))]  # a matrix of 21,841 squared counts helps nobody
