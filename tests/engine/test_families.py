"""The small variant of every family learns the handwritten digits."""

import pytest
from mmengine.config import Config

from tests.engine.helpers import CONFIGS
from tests.models.families import FAMILIES
from visionattn.engine.config import resolve_config
from visionattn.engine.hooks import read_history
from visionattn.engine.train import train

EPOCHS = 10
REQUIRED_TOP1 = 95.0
# Of 32 pixels they make four tokens, and need three times as long; NAT and DiNAT stand for their family.
ISOTROPIC = {"nat_isotropic_test", "vitrpb_test"}


def _small_variants():
    """Every `_test` variant of a pyramid, and timm's of MambaOut."""
    names = {name for family in FAMILIES.values() for name, _ in family.contract.values()}
    return sorted({*names, "test_mambaout"} - ISOTROPIC)


@pytest.mark.parametrize("name", _small_variants())
def test_learns_digits(name, tmp_path):
    config = Config.fromfile(CONFIGS / "classification/dinat/dinat_test_digits.py")
    config.work_dir = str(tmp_path)
    config.model.name = name
    config.train_cfg.max_epochs = EPOCHS
    config.param_scheduler[1].end = EPOCHS
    train(resolve_config(config))
    scores = [entry["val_top1"] for entry in read_history(tmp_path / "history.jsonl") if "val_top1" in entry]
    assert len(scores) == EPOCHS
    assert scores[-1] >= REQUIRED_TOP1
