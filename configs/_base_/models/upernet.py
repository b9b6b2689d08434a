"""UPerNet with 512 channels and an auxiliary head on stride 16; a config names the backbone and the heads' channels."""

_base_ = "mmseg::_base_/models/upernet_r50.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type="VisionAttnBackbone"),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
