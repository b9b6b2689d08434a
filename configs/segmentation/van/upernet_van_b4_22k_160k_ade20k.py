"""UPerNet with VAN-B4 from ImageNet-22k on ADE20K, 160k: 53.5 mIoU over several scales in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_multiple_of_32.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="van_b4",
        drop_path_rate=0.4,
        norm_eps=1e-05,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/van_b4_22k.pth"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
train_dataloader = dict(batch_size=4)
sync_bn = "torch"
