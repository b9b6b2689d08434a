"""Mask R-CNN in small, for objects of 30 to 70 pixels: levels of 64 channels on strides 8 to 32, slim heads."""

_base_ = "mask_rcnn.py"

_region = dict(out_channels=64, featmap_strides=[8, 16, 32])
_convs = dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=10)

model = dict(
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(out_channels=64, num_outs=3),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4, 6], ratios=[1.0, 1.6], strides=[8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=_region,
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=_region,
        mask_head=_convs,
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)
