"""A small DiNAT on handwritten digits: minutes on a CPU."""

_base_ = ["../../_base_/datasets/digits.py", "../../_base_/runtime/default.py", "../../_base_/schedules/digits.py"]

model = dict(type="ImageClassifier", name="dinat_test", num_classes=10, label_smoothing=0.1)
custom_hooks = [dict(type="WeightAverage", decay=0.98, warmup=True)]
