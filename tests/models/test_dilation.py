"""Dilation schedules: the published lists, and the largest that fits."""

import pytest
import timm
import torch

from visionattn.models._dilation import resolve_dilations

ADE640 = [1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5]
MASK2FORMER = [1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 3]
MINI, TINY, S_TINY, S_SMALL = (3, 4, 6, 5), (3, 4, 18, 5), (2, 2, 6, 2), (2, 2, 18, 2)


@pytest.mark.parametrize(
    ("name", "depths", "expected"),
    [
        (None, MINI, [[1] * 3, [1] * 4, [1] * 6, [1] * 5]),
        ("224", MINI, [[1, 8, 1], [1, 4, 1, 4], [1, 2] * 3, [1] * 5]),
        ("224", TINY, [[1, 8, 1], [1, 4, 1, 4], [1, 2] * 9, [1] * 5]),
        ("384", TINY, [[1, 13, 1], [1, 6, 1, 6], [1, 3] * 9, [1] * 5]),
        ("coco", MINI, [[1, 28, 1], [1, 7, 1, 14], [1, 3, 1, 5, 1, 7], [1, 3, 1, 3, 1]]),
        ("coco", TINY, [[1, 28, 1], [1, 7, 1, 14], [1, 3, 1, 5, 1, 7] * 3, [1, 3, 1, 3, 1]]),
        ("ade512", TINY, [[1, 16, 1], [1, 4, 1, 8], [1, 2, 1, 3, 1, 4] * 3, [1, 2, 1, 2, 1]]),
        ("ade640", TINY, [[1, 20, 1], [1, 5, 1, 10], ADE640, [1, 2, 1, 2, 1]]),
        ("mask2former", TINY, [[1, 14, 1], [1, 4, 1, 7], MASK2FORMER, [1] * 5]),
        ("224", S_TINY, [[1, 8], [1, 4], [1, 2] * 3, [1, 1]]),
        ("384", S_SMALL, [[1, 13], [1, 6], [1, 3] * 9, [1, 1]]),
        ("coco", S_TINY, [[1, 28], [1, 14], [1, 3, 1, 5, 1, 7], [1, 3]]),
        ("coco", S_SMALL, [[1, 28], [1, 14], [1, 3, 1, 5, 1, 7] * 3, [1, 3]]),
        ("ade512", S_SMALL, [[1, 16], [1, 8], [1, 2, 1, 3, 1, 4] * 3, [1, 2]]),
        ("ade640", S_SMALL, [[1, 20], [1, 10], ADE640, [1, 2]]),
        ("max", (3, 2, 1, 1), [[1, "max", 1], [1, "max"], [1], [1]]),
    ],
)
def test_published_schedules(name, depths, expected):
    assert resolve_dilations(name, depths) == expected


@pytest.mark.parametrize(
    ("size", "dilations"),
    [
        ((64, 64), ((1, 5), (1, 2), (1, 1), (1,))),  # maps of 16, 8, 4 and 2, kernel 3
        ((96, 96), ((1, 8), (1, 4), (1, 2), (1,))),
    ],
)
def test_max_is_the_largest_that_fits(size, dilations):
    model = timm.create_model("dinat_test", dilations="max").eval()
    fixed = timm.create_model("dinat_test", dilations=dilations).eval()
    fixed.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert torch.equal(model(x), fixed(x))


def test_max_is_chosen_per_axis():
    model = timm.create_model("nat_isotropic_test", dilations=("max",), depth=1).eval()
    fixed = timm.create_model("nat_isotropic_test", depth=1).eval()
    fixed.load_state_dict(model.state_dict())
    fixed.blocks[0].attn.dilation = [2, 4]
    x = torch.randn(1, 3, 16 * 7, 16 * 12)
    with torch.no_grad():
        assert torch.equal(model(x), fixed(x))


def test_padding_matters_only_where_a_window_exceeds_the_map():
    models = {p: timm.create_model("dinat_test", padding=p).eval() for p in ("zero", "masked", "error")}
    for model in models.values():
        model.load_state_dict(models["zero"].state_dict())
    large, small = torch.randn(1, 3, 96, 96), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = models["zero"](large)
        assert torch.equal(models["masked"](large), expected)
        assert torch.equal(models["error"](large), expected)
        assert not torch.allclose(models["masked"](small), models["zero"](small))
        with pytest.raises(ValueError, match=r"kernel_size \* dilation"):
            models["error"](small)
