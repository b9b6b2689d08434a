"""AttNet-T1 on ImageNet-1k, 224x224."""

_base_ = [
    "../../_base_/datasets/in1k_repeated.py",
    "../../_base_/schedules/in1k_300e_attnet.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="attnet_t1", model_args=dict(drop_path_rate=0.1), mixup=dict(mixup_alpha=0.6))
optim_wrapper = dict(optimizer=dict(weight_decay=0.025))
train_dataloader = dict(dataset=dict(transform=dict(color_jitter=0.2, re_prob=0.15)))
