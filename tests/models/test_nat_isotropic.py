"""Global attention with relative bias, and isotropic models at other sizes."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from tests.parity import FIXTURES
from visionattn.layers import NeighborhoodAttention2D
from visionattn.models.nat_isotropic import RelativeBiasAttention, dense_bias


@pytest.mark.parametrize(("height", "width"), [(5, 5), (3, 4), (1, 6), (1, 1)])
def test_dense_bias_is_key_minus_query(height, width):
    table = torch.randn(2, 2 * height - 1, 2 * width - 1)
    bias = dense_bias(table, height, width).reshape(2, height, width, height, width)
    for qi, qj, ki, kj in np.ndindex(height, width, height, width):
        assert torch.equal(bias[:, qi, qj, ki, kj], table[:, ki - qi + height - 1, kj - qj + width - 1])


def test_attention_equals_the_released_module():
    data = {
        name: torch.from_numpy(value)
        for name, value in np.load(FIXTURES / "dinat/op_module_vitrpb.npz").items()
        if value.ndim
    }
    module = RelativeBiasAttention(12, 3, (5, 5), dtype=torch.float64)
    module.load_state_dict({name[6:]: value for name, value in data.items() if name.startswith("param.")})
    x = data["x"].requires_grad_()
    out = module(x)
    out.backward(data["grad_out"])
    gradients = {"x": x.grad, **{name: p.grad for name, p in module.named_parameters()}}
    for actual, expected in [
        (out, data["out"]),
        *((g, data[f"d.{n}"] if n != "x" else data["d_x"]) for n, g in gradients.items()),
    ]:
        assert (actual - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("size", [160, (96, 208)])
def test_bias_tables_follow_the_input_size(size):
    model = timm.create_model("vitrpb_test").eval()
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(1, 3, height, width)
    with torch.no_grad():
        expected = model(x)  # resized for this input alone
        model.set_input_size(size)
        assert model.blocks[0].attn.rpb.shape[1:] == (height // 8 - 1, width // 8 - 1)
        torch.testing.assert_close(model(x), expected)
    assert timm.models._input.get_model_input_config(model)["input_size"] == (3, height, width)


def test_resized_table_is_bicubic():
    table = torch.randn(3, 27, 27, dtype=torch.float64)
    expected = F.interpolate(table[None], (13, 41), mode="bicubic", align_corners=False)[0]
    assert torch.equal(dense_bias(table, 7, 21), dense_bias(expected, 7, 21))


def test_input_is_padded_at_the_right_and_bottom():
    model = timm.create_model("nat_isotropic_test").eval()
    x = torch.randn(1, 3, 61, 50)
    with torch.no_grad():
        assert torch.equal(model(x), model(F.pad(x, (0, 14, 0, 3))))


def test_img_size_sets_the_table():
    model = timm.create_model("vitrpb_test", img_size=(64, 100))
    assert model.blocks[0].attn.rpb.shape == (2, 7, 13)


def test_dropout_of_weights_on_a_map_smaller_than_the_window():
    torch.manual_seed(0)
    module = NeighborhoodAttention2D(16, 2, 7, rel_pos_bias=True, attn_drop=0.5, padding="masked").train()
    out = module(torch.randn(2, 3, 5, 16))
    assert out.shape == (2, 3, 5, 16)
    module.attn_drop.p = 0.0
    kept = module(x := torch.randn(1, 3, 5, 16))
    module.attn_drop.p = 1e-12  # takes the unfused operators, drops nothing
    torch.testing.assert_close(module(x), kept)
