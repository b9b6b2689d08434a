"""mmsegmentation's hooks and log, and our backbones."""

_base_ = "mmseg::_base_/default_runtime.py"

custom_imports = dict(imports=["visionattn.downstream.openmmlab"], allow_failed_imports=False)
