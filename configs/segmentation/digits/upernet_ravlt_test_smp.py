"""UPerNet on a small RAVLT, for digits on photographs: minutes on a CPU."""

_base_ = [
    "../../_base_/datasets/digit_scenes_classes.py",
    "../../_base_/models/upernet_small_smp.py",
    "../../_base_/schedules/digit_scenes.py",
    "../../_base_/runtime/segmentation.py",
]

model = dict(name="ravlt_test")
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=0.3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=0.3, end=12, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=12)
