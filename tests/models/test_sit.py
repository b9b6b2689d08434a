"""SiT with attentive convolution against what the released code computed."""

import numpy as np
import pytest
import torch

from tests.models.recorded_blocks import recorded
from tests.ops.cases import relative_error
from tests.parity import FIXTURES, assert_matches, image, load_fixture, official_state_dict
from visionattn.models.sit import SIZES, DiffusionBlock, SiT

BLOCK = np.load(FIXTURES / "attnet" / "op_sit_atconv.npz")


@pytest.mark.parametrize(
    ("name", "mixer"), [("diffusion_sit_atconv_s_2", "atconv"), ("diffusion_sit_atconv_s_2_hybrid", "hybrid")]
)
def test_recorded_model(name, mixer):
    fixture = load_fixture("attnet", name)
    case = fixture["cases"][0]
    model = SiT(**SIZES["S"], mixer=mixer)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == fixture["params"]
    model.load_state_dict(official_state_dict(fixture))
    taps = {}
    for i in (0, 1, 5, 11):
        model.blocks[i].register_forward_hook(lambda _, __, out, i=i: taps.__setitem__(f"block{i}", out))
    x = image(case["input"]["shape"], case["input"]["seed"]).float()
    with torch.no_grad():
        t, y = torch.tensor(case["input"]["t"]), torch.tensor(case["input"]["y"])
        taps["velocity"] = model.eval()(x, t, y)
    for tap, digest in case["outputs"].items():
        assert_matches(tap, taps[tap], digest, 1e-3)


def test_recorded_block():
    block = DiffusionBlock(8, 2, atconv=True).double()
    block.load_state_dict(recorded(BLOCK, "sit_block", "param"))
    x, c, y = (torch.from_numpy(BLOCK[f"sit_block/{name}"]) for name in ("x", "c", "y"))
    assert relative_error(block(x, c, (6, 6)), y) < 1e-10


@pytest.mark.parametrize(
    ("size", "mixer", "millions"),
    [("S", "atconv", 31.10), ("S", "hybrid", 31.98), ("B", "atconv", 123.24), ("B", "hybrid", 126.78)],
)
def test_parameters(size, mixer, millions):
    with torch.device("meta"):
        model = SiT(**SIZES[size], mixer=mixer)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(millions, abs=5e-3)


def test_training_starts_at_no_velocity_and_moves():
    torch.manual_seed(0)
    model = SiT(8, dim=32, depth=2, num_heads=2, mixer="atconv", num_classes=5).train()
    x, t, y = torch.randn(2, 4, 12, 8), torch.rand(2), torch.tensor([0, 4])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        velocity = model(x, t, y)
        losses.append((velocity - x).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    torch.testing.assert_close(losses[0], x.square().mean())
    assert losses[-1] < losses[0]
    assert model.y_embedder.embedding_table.num_embeddings == 6


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(mixer="conv"), "mixer must be one of 'atconv', 'hybrid', 'attention', got 'conv'"),
        (dict(input_size=33), "input_size must be a multiple of patch_size"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        SiT(dim=8, depth=1, num_heads=1, **arguments)
