"""Cascade Mask R-CNN with MAViT-L on COCO, 3x."""

_base_ = "cascade_mask_rcnn_mala_s_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/mala_l.pth")),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0002))
train_dataloader = dict(batch_size=1)
