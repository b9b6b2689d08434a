"""RetinaNet with RAVLT-B on COCO, 1x: 49.8 AP in the paper."""

_base_ = "retinanet_ravlt_t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/ravlt_b.pth")),
    neck=dict(in_channels=[192, 384, 512]),
)
