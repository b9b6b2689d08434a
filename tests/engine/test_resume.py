"""A resumed run repeats the uninterrupted one bit by bit."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.engine.helpers import tiny_config, training_losses
from visionattn.engine.checkpoint import read_checkpoint, training_checkpoints
from visionattn.engine.train import train

EVERYTHING = {
    "model__model_args": {"drop_path_rate": 0.2},
    "model__mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
    "optim_wrapper__accumulative_counts": 2,
    "default_hooks__average": {"type": "WeightAverage", "decay": 0.9, "warmup": True},
}


@HOOKS.register_module(force=True)
class Interrupt(Hook):
    """Raises in the middle of a training iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


def interrupted(config, iteration):
    config.custom_hooks = [{"type": "Interrupt", "iteration": iteration}]
    with pytest.raises(KeyboardInterrupt):
        train(config)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("whole")
    train(tiny_config(work_dir, **EVERYTHING))
    return work_dir


@pytest.mark.parametrize(
    ("stop_at", "extra"),
    [
        pytest.param(14, {}, id="in-an-epoch"),
        pytest.param(15, {"default_hooks__checkpoint__interval_iters": 2}, id="from-within-an-epoch"),
        pytest.param(12, {"train_dataloader__num_workers": 2}, id="with-other-workers"),
        pytest.param(3, {}, id="before-any-checkpoint"),
    ],
)
def test_resume_is_exact(whole_run, tmp_path, stop_at, extra):
    interrupted(tiny_config(tmp_path, **EVERYTHING, **extra), stop_at)
    train(tiny_config(tmp_path, **EVERYTHING), resume="auto", seed=99 if stop_at > 6 else None)
    assert training_losses(tmp_path) == training_losses(whole_run)
    ours, theirs = (read_checkpoint(folder / "last.pth") for folder in (tmp_path, whole_run))
    for key in ("state_dict", "train_state_dict", "optimizer", "param_schedulers"):
        assert same(ours[key], theirs[key]), key
    assert ours["meta"]["best"] == theirs["meta"]["best"]


def test_scaled_float16_resumes(tmp_path):
    options = {"optim_wrapper__amp": "float16", "train_cfg__max_epochs": 2}
    train(tiny_config(tmp_path / "whole", **options))
    interrupted(tiny_config(tmp_path / "cut", **options), 8)
    train(tiny_config(tmp_path / "cut", **options), resume=True)
    assert training_losses(tmp_path / "cut") == training_losses(tmp_path / "whole")
    ours, theirs = (read_checkpoint(tmp_path / name / "last.pth") for name in ("cut", "whole"))
    assert same(ours["optimizer"]["scaler"], theirs["optimizer"]["scaler"])


def test_damaged_newest_checkpoint_is_passed_over(whole_run, tmp_path):
    interrupted(tiny_config(tmp_path, **EVERYTHING), 20)
    newest = training_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    train(tiny_config(tmp_path, **EVERYTHING), resume="auto")
    assert training_losses(tmp_path) == training_losses(whole_run)


def test_seed_changes_the_run(whole_run, tmp_path):
    train(tiny_config(tmp_path, **EVERYTHING, train_cfg__max_epochs=1), seed=4)
    assert training_losses(tmp_path)[1] != training_losses(whole_run)[1]


def test_files_of_a_run(whole_run):
    names = {path.name for path in whole_run.iterdir()}
    assert {"last.pth", "best.pth", "iter_18.pth", "iter_24.pth", "history.jsonl", "curves.png", "run.log"} <= names
    assert (whole_run / "last.pth").resolve().name == "iter_24.pth"
    assert not [name for name in names if name.startswith(".tmp-")]
    best = read_checkpoint(whole_run / "best.pth")
    assert best.keys() == {"state_dict", "meta"}
    assert best["meta"]["classes"] == ["upright", "level"]
