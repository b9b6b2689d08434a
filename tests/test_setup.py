"""What VISIONATTN_BUILD decides, and what it says where something is missing."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

PATH = Path(__file__).resolve().parent.parent / "setup.py"
CPU, CUDA = "visionattn.lib.visionattn_cpu", "visionattn.lib.visionattn_cuda"


@pytest.fixture
def setup():
    spec = importlib.util.spec_from_file_location("visionattn_setup", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _nvcc(folder: Path, release: str) -> str:
    """A CUDA folder whose nvcc only tells its release."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
    nvcc.chmod(0o755)
    return str(folder)


MODES = [
    ("none", "13.0", []),
    ("cpu", "13.0", [CPU]),
    ("auto", "13.0", [CPU, CUDA]),
    ("auto", "12.8", [CPU]),
    ("auto", None, [CPU]),
    ("cuda", "13.0", [CPU, CUDA]),
]


@pytest.mark.parametrize(("mode", "release", "built"), MODES)
def test_modes(setup, monkeypatch, tmp_path, mode, release, built):
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", _nvcc(tmp_path, release) if release else None)
    monkeypatch.setenv("VISIONATTN_BUILD", mode)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    libraries, _ = setup.extensions()
    assert [library.name for library in libraries] == built


def test_no_compiler(setup, monkeypatch, capsys):
    monkeypatch.setenv("VISIONATTN_BUILD", "auto")
    monkeypatch.setenv("PATH", "")
    assert setup.extensions() == ([], {})
    assert "no C++ compiler found" in capsys.readouterr().err


ERRORS = [
    ("fast", "13.2", "13.0", "not one of auto, cpu, cuda, none"),
    ("cuda", "13.2", None, "no nvcc found"),
    ("cuda", "13.2", "12.8", "nvcc is of CUDA 12"),
    ("cuda", None, "13.0", "this torch has no CUDA"),
]


@pytest.mark.parametrize(("mode", "torch_cuda", "release", "message"), ERRORS)
def test_what_cannot_be_built_is_said(setup, monkeypatch, tmp_path, mode, torch_cuda, release, message):
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", _nvcc(tmp_path, release) if release else None)
    monkeypatch.setenv("VISIONATTN_BUILD", mode)
    with pytest.raises(SystemExit, match=message):
        setup.extensions()
