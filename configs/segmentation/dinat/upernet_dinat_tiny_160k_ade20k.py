"""UPerNet with DiNAT-Tiny on ADE20K, 160k: 47.8 mIoU, 48.8 over several scales in the paper."""

_base_ = "upernet_dinat_mini_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="dinat_tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_tiny.pth"))
)
