"""Semantic FPN: a pyramid of 256 channels, a head of 128; a config names the backbone and `neck.in_channels`."""

_base_ = "mmseg::_base_/models/fpn_r50.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type="VisionAttnBackbone"),
    decode_head=dict(num_classes=150),
)
