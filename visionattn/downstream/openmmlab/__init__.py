"""Our backbones in mmdetection and mmsegmentation.

Importing this registers the classes below in mmengine's root registries, where both frameworks find them by their bare
names. It changes nothing else: `mend_mmengine` and `enable_without_mmcv_ops` do, and are there to be called.
"""

from visionattn.downstream.openmmlab.backbone import VisionAttnBackbone
from visionattn.downstream.openmmlab.layer_decay import LayerDecayOptimWrapperConstructor
from visionattn.downstream.openmmlab.losses import BatchDiceLoss
from visionattn.downstream.openmmlab.mend import mend_mmengine
from visionattn.downstream.openmmlab.mmcv_ops import enable_without_mmcv_ops
from visionattn.downstream.openmmlab.necks import FinerFPN
from visionattn.downstream.openmmlab.weights import load_weights

__all__ = [
    "BatchDiceLoss",
    "FinerFPN",
    "LayerDecayOptimWrapperConstructor",
    "VisionAttnBackbone",
    "enable_without_mmcv_ops",
    "load_weights",
    "mend_mmengine",
]
