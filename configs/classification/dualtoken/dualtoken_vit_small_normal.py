"""DualToken-ViT, small, tokens without MixMLP, on ImageNet-1k, 224x224; our recipe, the paper's is unknown."""

_base_ = [
    "../../_base_/datasets/in1k.py",
    "../../_base_/schedules/in1k_300e_dualtoken.py",
    "../../_base_/runtime/default.py",
]

model = dict(name="dualtoken_vit_small_normal", model_args=dict(drop_path_rate=0.1))
train_dataloader = dict(dataset=dict(transform=dict(color_jitter=0.3)))
