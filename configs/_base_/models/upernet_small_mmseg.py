"""UPerNet in small: 64 channels in the head, 32 in the auxiliary one."""

_base_ = "upernet.py"

model = dict(
    data_preprocessor=dict(size=(160, 160)),
    decode_head=dict(channels=64, num_classes=11),
    auxiliary_head=dict(channels=32, num_classes=11),
)
