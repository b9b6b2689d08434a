"""DiNAT-Large from ImageNet-22k to ImageNet-1k, 384x384."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in22k_to_in1k_30e.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="dinat_large_384")
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-10))
