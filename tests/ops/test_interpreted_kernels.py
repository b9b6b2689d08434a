"""The checks of Triton kernels without a GPU: Triton's interpreter runs them on small problems."""

import os
import subprocess
import sys

import pytest

from tests.parity import FIXTURES


@pytest.mark.parametrize(("name", "cases"), [("attentive_conv", 9), ("linear_attention", 6), ("token_mixers", 4)])
def test_kernels(name: str, cases: int):
    command = [sys.executable, "-m", f"tests.cuda.check_{name}", "--device", "cpu", "--cases", str(cases)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "VISIONATTN_DISABLE_KERNELS": "1"}
    root = FIXTURES.parents[1]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
