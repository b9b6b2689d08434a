"""What the tests of OpenMMLab share: configs in small, and batches for them."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData

from visionattn.downstream import FeaturePyramid
from visionattn.downstream.openmmlab import enable_without_mmcv_ops, mend_mmengine

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = 64
# The small variant of each folder's family; DiNAT_s has its own.
SMALL = {
    "attnet": "attnet_test",
    "dinat": "dinat_test",
    "dualtoken": "dualtoken_vit_test",
    "l2vit": "l2vit_test",
    "mala": "mala_test",
    "mambaout": "test_mambaout",
    "nat": "nat_test",
    "rala": "ravlt_test",
    "soft": "soft_norm_test",
    "van": "van_test",
}
_SIZES = {"out_channels": 16, "feat_channels": 16, "conv_out_channels": 16, "channels": 16, "fc_out_channels": 32}
_COUNTS = {"max_per_img": 20, "nms_pre": 50, "num": 32}


def read(path):
    """A config, and its framework's classes registered."""
    mend_mmengine()
    enable_without_mmcv_ops()
    config = Config.fromfile(path)
    module = __import__(f"{config.default_scope}.utils", fromlist=["register_all_modules"])
    module.register_all_modules(init_default_scope=True)
    return config


def build(config):
    return MODELS.build({**config.model, "_scope_": config.default_scope})


def recipes(folder):
    return sorted(path for path in (CONFIGS / folder).iterdir() if path.suffix == ".py")


def method_and_variant(path):
    """ "upernet" and "dinat_s_test" of configs/segmentation/dinat/upernet_dinat_s_tiny_160k_ade20k.py."""
    family = path.parent.name
    methods = ("cascade_mask_rcnn", "mask_rcnn", "retinanet", "semantic_fpn", "upernet")
    method = next(method for method in methods if path.stem.startswith(f"{method}_"))
    name = path.stem[len(method) + 1 :]
    return method, "dinat_s_test" if (name.startswith("dinat_s_") and name[8:12] in ("tiny", "larg", "base")) or (
        name.startswith("dinat_s_small")
    ) else SMALL[family]


def shrink(model, variant):
    """A detector's or segmenter's config with a small backbone, few channels and few proposals, in place."""
    backbone = model.backbone
    backbone.update(model_name=variant, init_cfg=None)
    stages = backbone.get("out_indices", (0, 1, 2, 3))
    channels = FeaturePyramid(variant, stages).channels
    _replace(model, _SIZES)
    _replace(model.get("train_cfg", {}), _COUNTS)
    _replace(model.get("test_cfg", {}), _COUNTS)
    if "neck" in model:
        model.neck.in_channels = channels
        for key in ("rpn_head", "roi_head", "bbox_head", "decode_head"):
            if key in model:
                _replace(model[key], {"in_channels": _SIZES["out_channels"]})
    else:
        model.decode_head.in_channels = channels
        if model.get("auxiliary_head") is not None:
            model.auxiliary_head.in_channels = channels[model.auxiliary_head.in_index]
    if "size" in model.data_preprocessor:
        model.data_preprocessor.size = (SIZE, SIZE)
    return model


def _replace(config, values):
    for key, value in config.items():
        if key in values and value is not None:
            config[key] = [values[key]] * len(value) if isinstance(value, (list, tuple)) else values[key]
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _replace(inner, values)


def batch(scope, count=2, size=SIZE, classes=80):
    """Random images with what there is to find in them; the last image of a detector's batch is empty."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator) for _ in range(count)]
    meta = {"img_shape": (size, size), "ori_shape": (size, size), "scale_factor": (1.0, 1.0), "img_id": 0}
    samples = []
    for i in range(count):
        if scope == "mmdet":
            from mmdet.structures import DetDataSample
            from mmdet.structures.mask import BitmapMasks

            boxes = torch.tensor([[4.0, 4, 40, 44], [20, 10, 60, 62]][: 2 * (i < count - 1)]).view(-1, 4)
            masks = np.zeros((len(boxes), size, size), dtype=np.uint8)
            for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist()):
                mask[y0:y1, x0:x1] = 1
            sample = DetDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(
                bboxes=boxes, labels=torch.arange(len(boxes)), masks=BitmapMasks(masks, size, size)
            )
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        else:
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=meta)
            labels = torch.randint(0, classes, (1, size, size), generator=generator)
            sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return {"inputs": images, "data_samples": samples}
