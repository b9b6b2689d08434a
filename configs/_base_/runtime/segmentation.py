"""Loops, hooks and log of every segmenter."""

_base_ = ["default.py"]

val_evaluator = dict(_delete_=True, type="MeanIoU")
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(best="miou"), pictures=dict(type="PredictionPictures"))
