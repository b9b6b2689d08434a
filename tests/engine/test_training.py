"""Parameter groups, precision, accumulation, averaged weights, metrics and the classifier."""

import sys

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, MODELS

from tests.engine.helpers import tiny_config, training_losses
from visionattn.engine.checkpoint import atomic_save, read_checkpoint
from visionattn.engine.hooks import read_history
from visionattn.engine.train import dry_run, evaluate, train


def classifier(**options):
    return MODELS.build({"type": "ImageClassifier", "name": "dinat_test", "num_classes": 4} | options)


def wrapper_for(model, **options):
    optimizer = {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.1}
    return build_optim_wrapper(model, {"constructor": "TimmParamGroups", "optimizer": optimizer, **options})


def batch(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "inputs": torch.randn(size, 3, 32, 32, generator=generator),
        "data_samples": torch.arange(size) % 4,
    }


def test_no_decay_follows_the_model():
    model = classifier()
    groups = wrapper_for(model).optimizer.param_groups
    names = {id(p): name for name, p in model.net.named_parameters()}
    free = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert all(p.ndim > 1 or name in free for name, p in model.net.named_parameters())
    assert "head.fc.weight" not in free


def test_layer_decay():
    model = classifier()
    groups = wrapper_for(model, paramwise_cfg={"layer_decay": 0.5}).optimizer.param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    rates = [rate[id(p)] for p in (next(model.net.stem.parameters()), next(model.net.stages[2].blocks.parameters()))]
    assert rates[0] < rates[1] < rate[id(model.net.head.fc.weight)] == 1e-2


@pytest.mark.parametrize("amp", [None, "bfloat16", "float16"])
def test_a_step_lowers_the_loss(amp):
    torch.manual_seed(0)
    model = classifier()
    wrapper = wrapper_for(model, amp=amp, clip_grad={"max_norm": 1.0})
    losses = [model.train_step(batch(), wrapper)["loss"].item() for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]
    assert wrapper.grad_norm > 0
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_accumulation_equals_a_larger_batch():
    updates = []
    for counts, batches in (
        (1, [batch(16)]),
        (2, [{k: v[:8] for k, v in batch(16).items()}, {k: v[8:] for k, v in batch(16).items()}]),
    ):
        torch.manual_seed(0)
        model = classifier()
        wrapper = wrapper_for(model, accumulative_counts=counts)
        for part in batches:
            model.train_step(part, wrapper)
        updates.append(model.net.head.fc.weight.detach().clone())
    torch.testing.assert_close(*updates, rtol=1e-4, atol=1e-5)


def test_mixup_targets_are_smoothed_by_the_loss():
    torch.manual_seed(0)
    model = classifier(mixup={"mixup_alpha": 0.8, "cutmix_alpha": 1.0}, label_smoothing=0.1)
    mixed = model.data_preprocessor(batch(), True)
    assert mixed["data_samples"].shape == (8, 4)
    torch.testing.assert_close(mixed["data_samples"].sum(1), torch.ones(8))
    logits = model(mixed["inputs"])
    smooth = mixed["data_samples"] * 0.9 + 0.1 / 4
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(model(**mixed, mode="loss")["loss"], expected)
    assert model.data_preprocessor(batch(), False)["data_samples"].shape == (8,)


def test_checkpointing_and_channels_last_change_nothing():
    torch.manual_seed(0)
    plain = classifier()
    other = classifier(grad_checkpointing=True, channels_last=True)
    other.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, other):
        data = model.data_preprocessor(batch(), True)
        loss = model(**data, mode="loss")["loss"]
        results.append(torch.autograd.grad(loss, model.net.stages[0].blocks[0].attn.qkv.weight)[0])
    assert other.data_preprocessor(batch(), True)["inputs"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*results)


def test_fine_tuning_keeps_the_backbone(tmp_path):
    torch.manual_seed(0)
    source = classifier(num_classes=10)
    atomic_save({"state_dict": source.net.state_dict(), "meta": {}}, tmp_path / "source.pth")
    tuned = classifier(checkpoint=str(tmp_path / "source.pth")).net.state_dict()
    for name, value in source.net.state_dict().items():
        assert name.startswith("head.fc") or torch.equal(tuned[name], value), name
    assert tuned["head.fc.weight"].shape == (4, 128)


def test_progress_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    train(tiny_config(tmp_path, train_cfg__max_epochs=1, default_hooks__progress={"type": "ProgressBar"}))
    shown = capsys.readouterr().out
    assert "epoch 1/1" in shown
    assert "100%" in shown
    assert "top1" in shown


def test_average_is_validated_and_saved(tmp_path):
    average = {"type": "WeightAverage", "decay": 0.5}
    train(tiny_config(tmp_path, train_cfg__max_epochs=2, default_hooks__average=average))
    last = read_checkpoint(tmp_path / "last.pth")
    assert not torch.equal(last["state_dict"]["head.fc.weight"], last["train_state_dict"]["head.fc.weight"])
    validated = [row["val_loss"] for row in read_history(tmp_path / "history.jsonl") if "val_loss" in row][-1]
    tested = evaluate(tiny_config(tmp_path / "test"), tmp_path / "last.pth")
    assert tested["loss"] == pytest.approx(validated, rel=1e-5)
    assert (tmp_path / "test" / "confusion_matrix.png").stat().st_size > 1000


def test_average_is_the_exponential_one(tmp_path):
    states = []
    for epochs in (1, 2):  # one iteration each
        options = {"train_dataloader__batch_size": 48, "train_cfg__max_epochs": epochs, "param_scheduler": []}
        hooks = {"default_hooks__average": {"type": "WeightAverage", "decay": 0.75}, "optim_wrapper__clip_grad": None}
        train(tiny_config(tmp_path / str(epochs), **options, **hooks))
        states.append(read_checkpoint(tmp_path / str(epochs) / "last.pth"))
    name = "head.fc.weight"
    first, second = states
    expected = 0.75 * first["state_dict"][name] + 0.25 * second["train_state_dict"][name]
    torch.testing.assert_close(second["state_dict"][name], expected)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_amp_runs(tmp_path, amp):
    train(tiny_config(tmp_path, train_cfg__max_epochs=1), amp=amp)
    assert all(loss == loss for loss in training_losses(tmp_path).values())


def test_auto_scaled_learning_rate(tmp_path):
    scale = {"enable": True, "base_batch_size": 64}
    config = tiny_config(
        tmp_path, auto_scale_lr=scale, param_scheduler=[], optim_wrapper__accumulative_counts=2, train_cfg__max_epochs=1
    )
    runner = train(config)
    assert runner.optim_wrapper.get_lr()["lr"][0] == pytest.approx(2e-3 * 16 / 64)


def test_dry_run_leaves_no_checkpoint(tmp_path, capsys):
    result = dry_run(tiny_config(tmp_path))
    assert result["loss"] > 0
    assert "one step: loss" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.pth"))


def test_top_k():
    metric = METRICS.build({"type": "TopKAccuracy", "topk": (1, 2, 5)})
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [9.0, 0.0, 0.0]])
    labels = torch.tensor([0, 1, 0, -1])  # the last one only fills up the batch
    metric.process(None, [{"logits": logits[:2], "labels": labels[:2]}])
    metric.process(None, [{"logits": logits[2:], "labels": labels[2:]}])
    values = metric.evaluate(3)
    loss = torch.nn.functional.cross_entropy(logits[:3], labels[:3])
    assert values == pytest.approx({"top1": 100 / 3, "top2": 200 / 3, "loss": loss.item()})
    metric.process(None, [{"logits": logits[:1], "labels": labels[:1]}])
    assert metric.evaluate(1)["top1"] == 100  # nothing is left of before


def test_confusion_matrix(tmp_path):
    import numpy as np

    metric = METRICS.build({"type": "ConfusionMatrix", "out_dir": str(tmp_path)})
    metric.dataset_meta = {"classes": ["a", "b"]}
    metric.process(None, [{"logits": torch.eye(2)[[0, 1, 1]], "labels": torch.tensor([0, 1, 0])}])
    assert metric.evaluate(3) == {"mean_class_recall": 75.0}
    assert np.load(tmp_path / "confusion_matrix.npy").tolist() == [[1, 1], [0, 1]]
