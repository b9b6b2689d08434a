"""mmsegmentation's UPerNet on a small DiNAT, for digits on photographs: minutes on a CPU."""

_base_ = [
    "../../_base_/models/upernet_small_mmseg.py",
    "../../_base_/datasets/digit_scenes_mmseg.py",
    "../../_base_/schedules/digit_scenes_mmseg.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(model_name="dinat_test"),
    decode_head=dict(in_channels=[16, 32, 64, 128]),
)
