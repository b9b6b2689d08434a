"""Every recipe for mmdetection and mmsegmentation: parses and builds as it is; learns and predicts in small."""

import pytest
import timm.layers.weight_init
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper

from tests.downstream.openmmlab import SMALL, batch, build, method_and_variant, read, recipes, shrink

FOLDERS = [f"{task}/{family}" for family in SMALL for task in ("detection", "segmentation")]
# One recipe of every family and method: the others of the same are the same in small.
KINDS = {method_and_variant(path): path for folder in FOLDERS for path in reversed(recipes(folder))}


def test_every_family_has_recipes():
    assert all(recipes(folder) for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_builds_at_full_size(folder, monkeypatch):
    # on the meta device there is nothing to fill, and filling nothing takes seconds
    monkeypatch.setattr(timm.layers.weight_init, "_trunc_normal_", lambda tensor, *args: tensor)
    for path in recipes(folder):
        config = read(path)
        with torch.device("meta"):
            model = build(config)
        reads = config.model.get("neck") or config.model.decode_head
        assert model.backbone.channels == list(reads.in_channels), path
        assert config.model.backbone.init_cfg.checkpoint.startswith("checkpoints/")
        milestones = config.param_scheduler[-1].end
        assert milestones == config.train_cfg.get("max_epochs", config.train_cfg.get("max_iters")), path


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_learns_and_predicts_in_small(kind):
    config = read(KINDS[kind])
    shrink(config.model, kind[1])
    model = revert_sync_batchnorm(build(config))
    model.backbone.init_weights()
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    data = batch(config.default_scope)
    model.train()
    inputs = model.data_preprocessor(data, True)
    with wrapper.optim_context(model):
        loss, _ = model.parse_losses(model(**inputs, mode="loss"))
    wrapper.backward(loss)
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused  # so that data parallelism works without looking for them
    wrapper.step()
    assert torch.isfinite(loss)
    results = model.eval().test_step(batch(config.default_scope, 1))
    if config.default_scope == "mmdet":
        assert results[0].pred_instances.bboxes.shape[1] == 4
    else:
        assert results[0].pred_sem_seg.data.shape == (1, 64, 64)
