"""UPerNet on a small DiNAT, for digits on photographs: minutes on a CPU."""

_base_ = [
    "../../_base_/datasets/digit_scenes_classes.py",
    "../../_base_/models/upernet_small_smp.py",
    "../../_base_/schedules/digit_scenes_classes.py",
    "../../_base_/runtime/segmentation.py",
]

model = dict(name="dinat_test")
