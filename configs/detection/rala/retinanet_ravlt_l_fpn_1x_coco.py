"""RetinaNet with RAVLT-L on COCO, 1x: 50.9 AP in the paper."""

_base_ = "retinanet_ravlt_t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="ravlt_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/ravlt_l.pth")),
    neck=dict(in_channels=[192, 448, 640]),
)
