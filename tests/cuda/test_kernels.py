"""The checks of this folder under pytest."""

from __future__ import annotations

import importlib

import pytest
import torch

from tests.cuda import check_layer_norm

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("name", ["neighborhood", "linear_attention", "attentive_conv", "token_mixers"])
def test_kernels(name: str):
    report = importlib.import_module(f"tests.cuda.check_{name}").run()
    assert not report.failures, "\n".join(report.failures[:20])


def test_layer_norm():
    assert not [result for result in check_layer_norm.run() if not result["ok"]]
