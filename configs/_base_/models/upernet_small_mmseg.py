"""UPerNet in small: 32 channels, no auxiliary head, a Dice loss per class because digits fill few pixels."""

_base_ = "upernet.py"

model = dict(
    data_preprocessor=dict(size=(96, 96)),
    decode_head=dict(
        channels=32,
        norm_cfg=dict(type="BN"),
        num_classes=11,
        loss_decode=[dict(type="CrossEntropyLoss"), dict(type="BatchDiceLoss")],
    ),
    auxiliary_head=None,
)
