"""UPerNet with VAN-B4 from ImageNet-22k on ADE20K, 160k: 53.5 mIoU over several scales in the paper."""

_base_ = "upernet_van_b0_160k_ade20k.py"

model = dict(
    backbone=dict(model_name="van_b4", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/van_b4_22k.pth")),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
train_dataloader = dict(batch_size=4)
