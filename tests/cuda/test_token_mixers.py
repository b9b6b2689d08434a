"""The checks of check_token_mixers.py under pytest."""

from __future__ import annotations

import pytest
import torch

from tests.cuda.check_token_mixers import run


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_token_mixer_kernels():
    report = run()
    assert not report.failures, "\n".join(report.failures[:20])
