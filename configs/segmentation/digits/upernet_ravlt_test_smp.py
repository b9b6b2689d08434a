"""UPerNet on a small RAVLT, for digits on photographs: minutes on a CPU."""

_base_ = [
    "../../_base_/datasets/digit_scenes_classes.py",
    "../../_base_/models/upernet_small_smp.py",
    "../../_base_/schedules/digit_scenes.py",
    "../../_base_/runtime/segmentation.py",
]

model = dict(
    type="Segmenter", method="UPerNet", name="ravlt_test", num_classes=11, model_args=dict(decoder_channels=64)
)
