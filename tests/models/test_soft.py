"""What SOFT alone has: gradients through its inverse, checkpoints that tell their depths, its initialization."""

import pytest
import timm
import torch
from torch import nn

import visionattn
from tests.parity import assert_matches, image, load_fixture, official_state_dict


@pytest.mark.parametrize("name", ["soft_tiny", "soft_norm_tiny"])
def test_gradients(name):
    fixture = load_fixture("soft", name)
    case = fixture["grad_cases"][0]
    model = timm.create_model(name).eval()
    model.load_state_dict(visionattn.convert_checkpoint(official_state_dict(fixture), model))
    x = image(**case["input"]).requires_grad_()
    model.double()
    logits = model(x)
    (logits * image(logits.shape, 7)).sum().backward()
    official = {key: torch.empty(shape) for key, shape in fixture["entries"]}
    for key, digest in case["grads"].items():
        if key == "input":
            assert_matches(key, x.grad, digest, 1e-9)
            continue
        own = next(
            iter(visionattn.models.soft._checkpoint.rename({key: official[key]}, visionattn.models.soft._RENAMES))
        )
        assert_matches(key, model.get_parameter(own).grad, digest, 1e-9)


@pytest.mark.parametrize(
    ("fixture", "model", "hint"),
    [("soft_small", "soft_small_d7", "soft_small"), ("soft_norm_small_d7", "soft_norm_tiny", "soft_norm_small_d7")],
)
def test_depths_are_read_from_the_checkpoint(fixture, model, hint):
    weights = {name: torch.empty(shape) for name, shape in load_fixture("soft", fixture)["entries"]}
    with pytest.raises(ValueError, match=rf"depths \[1, 3, .*that is {hint}$"):
        visionattn.convert_checkpoint(weights, timm.create_model(model, device="meta"))


def test_averaged_weights_come_first():
    model = timm.create_model("soft_test")
    averaged = {name: torch.full_like(value, 2) for name, value in model.state_dict().items()}
    checkpoint = {"state_dict": model.state_dict(), "state_dict_ema": averaged, "epoch": 3}
    converted = visionattn.convert_checkpoint(checkpoint, model)
    assert all((value == 2).all() for value in converted.values())


def test_inverses_are_options():
    x, outputs = torch.randn(1, 3, 64, 64), []
    for options in ({}, {"inverse": "global"}, {"inverse": "global", "normalize": True}, {"newton_iterations": 2}):
        torch.manual_seed(0)
        outputs.append(timm.create_model("soft_norm_test", **{"inverse": "damped", "normalize": False, **options}))
        if len(outputs) > 1:
            outputs[-1].load_state_dict(outputs[0].state_dict())
    logits = [model.eval()(x) for model in outputs]
    assert all(not torch.equal(a, b) for i, a in enumerate(logits) for b in logits[:i])
    with pytest.raises(ValueError, match="inverse must be one of 'damped', 'global'"):
        timm.create_model("soft_test", inverse="exact")


@pytest.mark.parametrize(("name", "spread"), [("soft_tiny", 0.02), ("soft_norm_tiny", 64**-0.5 / 3**0.5)])
def test_initialization(name, spread):
    torch.manual_seed(0)
    model = timm.create_model(name)
    assert model.stages[0].blocks[0].attn.q.weight.std().item() == pytest.approx(spread, rel=0.1)
    assert model.stages[3].blocks[0].attn.q.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_drop_path_is_dropout_before_the_last_stage():
    model = timm.create_model("soft_test", drop_path_rate=0.4)
    rates = [block.drop.p for stage in model.stages[:3] for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert model.stages[3].blocks[0].drop_path.drop_prob == pytest.approx(0.4)
    assert all(isinstance(block.drop, nn.Dropout) for stage in model.stages[:3] for block in stage.blocks)


def test_pooling_of_tokens():
    model, x = timm.create_model("soft_test").eval(), torch.randn(2, 3, 64, 64)
    tokens = model.forward_features(x)
    assert tokens.shape == (2, 1 + 4, 96)
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens[:, 0])
    model.reset_classifier(0, "avg")
    torch.testing.assert_close(model(x), tokens[:, 1:].mean(1))
    with pytest.raises(ValueError, match="global_pool must be 'token'"):
        timm.create_model("soft_test", global_pool="catavgmax")
