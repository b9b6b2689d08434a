"""RetinaNet with RAVLT-S on COCO, 1x: 48.3 AP in the paper."""

_base_ = "retinanet_ravlt_t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="ravlt_s", drop_path_rate=0.15, init_cfg=dict(checkpoint="checkpoints/ravlt_s.pth")),
    neck=dict(in_channels=[128, 320, 512]),
)
