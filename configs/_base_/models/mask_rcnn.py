"""Mask R-CNN with a feature pyramid of 256 channels; a config names the backbone and `neck.in_channels`."""

_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(backbone=dict(_delete_=True, type="VisionAttnBackbone"))
