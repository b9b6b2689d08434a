"""mmdetection's hooks and log, and our backbones; the best checkpoint is kept beside the newest two."""

_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["visionattn.downstream.openmmlab"], allow_failed_imports=False)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best="auto"))
