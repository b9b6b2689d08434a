"""ImageNet-1k with repeated augmentation: three versions of an image in a batch."""

_base_ = "in1k.py"

train_dataloader = dict(sampler=dict(repeats=3))
