"""ImageNet-22k (21,841 classes) in `data_root/{train,val}/<class>/`."""

_base_ = "in1k.py"

data_root = "data/imagenet22k"
