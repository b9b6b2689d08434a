"""UPerNet with MambaOut-Small on ADE20K, 160k: 49.5 mIoU, 50.6 over several scales in the paper."""

_base_ = "upernet_mambaout_tiny_160k_ade20k.py"

model = dict(
    backbone=dict(
        model_name="mambaout_small", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/mambaout_small.pth")
    )
)
