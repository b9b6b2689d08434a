"""Loops, hooks and log of every detector."""

_base_ = ["default.py"]

val_evaluator = dict(_delete_=True, type="CocoAP", iou_types=("bbox", "segm"))
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(best="bbox_map"), pictures=dict(type="PredictionPictures"))
