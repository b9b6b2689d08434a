"""ADE20K, 150 classes: crops of 512x512 out of images scaled by 0.5 to 2, 8 times 2 images; tested whole."""

_base_ = "mmseg::_base_/datasets/ade20k.py"

train_dataloader = dict(batch_size=2)
