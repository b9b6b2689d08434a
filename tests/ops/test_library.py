"""Which devices the compiled kernels serve."""

import warnings

import pytest
import torch

from visionattn import _library


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU of a given compute capability, and our library for it."""

    def pretend(*capability: int) -> torch.device:
        monkeypatch.setattr(_library, "_MISSING", {})
        monkeypatch.setattr(_library, "_TOO_OLD", {})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return torch.device("cuda", 0)

    return pretend


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_new_gpus_are_served(gpu, capability):
    device = gpu(*capability)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _library.has_kernel(device, torch.float16)
    assert not _library.has_kernel(device, torch.float64)


def test_old_gpus_are_not_and_hear_it_once(gpu):
    device = gpu(7, 5)
    with pytest.warns(UserWarning, match=r"on cuda:0: its kernels need a GPU of compute capability 8\.0, .* has 7\.5"):
        assert not _library.has_kernel(device, torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _library.has_kernel(device, torch.float16)


def test_tensors_that_pretend_to_be_on_a_gpu_count_as_on_a_new_one(gpu, monkeypatch):
    device = gpu(7, 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _library.has_kernel(device, torch.float16)


@pytest.mark.parametrize(("is_old", "expected"), [(False, 1.0), (True, 2.0)])
def test_the_compiler_asks_when_it_traces(monkeypatch, is_old, expected):
    torch.compiler.reset()  # what it was told before holds for good
    device = torch.device("cuda", 0)
    monkeypatch.setattr(_library, "_MISSING", {})
    monkeypatch.setattr(_library, "_TOO_OLD", {device: is_old})

    @torch.compile(fullgraph=True, backend="eager")
    def run(x):
        return x + (1 if _library.has_kernel(device, x.dtype) else 2)

    assert run(torch.zeros(1)).item() == expected
