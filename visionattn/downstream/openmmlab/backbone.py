"""The one adapter that makes any of our backbones, or of timm's, a backbone of mmdet and mmseg."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader

from visionattn.checkpoint import load_checkpoint_file
from visionattn.downstream.pyramid import FeaturePyramid

__all__ = ["VisionAttnBackbone"]


@MODELS.register_module()
class VisionAttnBackbone(FeaturePyramid):
    """`FeaturePyramid` as a config names it: `dict(type="VisionAttnBackbone", model_name="dinat_large", ...)`.

    Takes images `[B, 3, H, W]` in RGB, normalised as the detector's preprocessor does it, and returns one NCHW map per
    entry of `out_indices`.

    Args:
        model_name: Any model of timm that has `features_only`, ours included.
        out_indices: Stages to return, from 0.
        output_norms: Whether each map passes a layer norm of its own; None for what the family's paper does.
        drop_path_rate: Stochastic depth; None for the model's default.
        frozen_stages: Stages that are not trained: -1 for none, 0 for the stem, 1 for stem and first stage, and so on.
        norm_eval: Whether batch norms keep their statistics in training.
        with_cp: Whether to recompute activations in backward, which saves memory.
        pretrained: Whether timm loads the weights that it knows for the model.
        init_cfg: `dict(type="Pretrained", checkpoint=...)` loads a file or URL when the detector's `init_weights` runs:
            an official checkpoint (classification or dense prediction), or one of our own. None initialises at random.
        **model_args: Arguments of the model, e.g. `dilations="coco"` for DiNAT or `norm_eps=1e-5` for VAN.

    Raises:
        ValueError: stages that the model does not have, or another kind of `init_cfg`.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norms: Optional[bool] = None,
        drop_path_rate: Optional[float] = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: bool = False,
        init_cfg: Optional[Mapping[str, Any]] = None,
        **model_args: Any,
    ):
        if init_cfg is not None and (init_cfg.get("type") != "Pretrained" or not init_cfg.get("checkpoint")):
            raise ValueError(f"init_cfg must be None or dict(type='Pretrained', checkpoint=...), got {init_cfg}")
        if drop_path_rate is not None:
            model_args["drop_path_rate"] = drop_path_rate
        super().__init__(
            model_name,
            out_indices,
            output_norms=output_norms,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            grad_checkpointing=with_cp,
            pretrained=pretrained,
            **model_args,
        )
        self.model_name, self.init_cfg = model_name, init_cfg

    def init_weights(self) -> None:
        """Loads the checkpoint of `init_cfg`, and logs which parameters it has no values for.

        Raises:
            FileNotFoundError: no such file; the message says where the weights come from.
            ValueError: the file can't be read, or is of another model.
        """
        if self.init_cfg is None:
            return
        source = self.init_cfg["checkpoint"]
        if "://" in source:
            weights = CheckpointLoader.load_checkpoint(source, map_location="cpu")
        else:
            path = Path(source).expanduser()
            if not path.is_file():
                origin = getattr(self.body.model, "pretrained_cfg", {}).get("origin_url")
                hint = f" (weights of {self.model_name} are published at {origin})" if origin else ""
                raise FileNotFoundError(f"init_cfg.checkpoint: there is no file {source}{hint}")
            weights = load_checkpoint_file(path)
        try:
            missing = self.load_released(weights)
        except ValueError as error:
            raise ValueError(f"init_cfg.checkpoint {source}: {error}") from error
        fresh = f", {len(missing)} parameters start anew: {', '.join(missing)}" if missing else ""
        print_log(f"{self.model_name} starts from {source}{fresh}", logger="current")
