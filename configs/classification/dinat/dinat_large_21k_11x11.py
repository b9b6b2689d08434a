"""DiNAT-Large with 11x11 windows on ImageNet-22k, for evaluation: its weights are those of 7x7 windows, resized."""

_base_ = ["../../_base_/datasets/in22k.py", "../../_base_/schedules/in22k_90e.py", "../../_base_/runtime/default.py"]

model = dict(name="dinat_large_21k_11x11", model_args=dict(drop_path_rate=0.2))
test_evaluator = [dict(type="TopKAccuracy", topk=(1, 5))]  # a matrix of 21,841 squared counts helps nobody
