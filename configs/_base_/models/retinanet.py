"""RetinaNet on strides 8 to 128; a config names the backbone and `neck.in_channels`, of stages 1 to 3.

The pyramid starts at the first map it is given: stage 0 is not even returned, so that none of its norms goes unused.
"""

_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    backbone=dict(_delete_=True, type="VisionAttnBackbone", out_indices=(1, 2, 3)),
    neck=dict(start_level=0),
)
