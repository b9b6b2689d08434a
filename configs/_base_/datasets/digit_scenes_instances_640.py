"""The same with usual pictures: `python tools/make_digits_coco.py data/digits_coco_640 --size 640 --digits 3 14 --scale
0.06 0.3 --train 1500 --val 150 --jobs 8` makes them.
"""

_base_ = ["digit_scenes_instances.py"]

data_root = "data/digits_coco_640"

_loader = dict(num_workers=8, persistent_workers=True, pin_memory=True)
_distort = [dict(type="RandomPhotometricDistort", p=0.5)]  # no mirroring, a digit has its handedness
train_dataloader = dict(batch_size=16, dataset=dict(transforms=_distort), **_loader)
val_dataloader = dict(batch_size=10, **_loader)
test_dataloader = val_dataloader
