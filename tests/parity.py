"""Comparison with what a paper's released code computed, without its weights.

A fixture lists the names and shapes of the released state dict. `fill` makes the same numbers from a name and a shape
on both sides, so that the fixture only has to hold the outputs: samples of each tensor, and all logits to 7 digits.
"""

import json
import math
import zlib
from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"
STORED_DIGITS = 7


def load_fixture(family: str, name: str) -> Dict[str, Any]:
    return json.loads((FIXTURES / family / f"{name}.json").read_text())


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def fill(name: str, shape: Sequence[int]) -> np.ndarray:
    """Value of the floating-point parameter or buffer `name`, float64."""
    shape = tuple(shape)
    generator = _generator(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return 0.5 + generator.random(shape)
    noise = generator.standard_normal(shape)
    if len(shape) >= 2:
        return noise / math.sqrt(math.prod(shape[1:]) if shape[0] > 1 else shape[-1])
    is_scale = name.endswith("weight") or not shape
    return 1.0 + 0.1 * noise if is_scale else 0.1 * noise


def image(shape: Sequence[int], seed: int) -> Tensor:
    """Standard-normal input, float64."""
    return torch.from_numpy(_generator(seed).standard_normal(tuple(shape)))


def official_state_dict(fixture: Dict[str, Any], section: str = "cases") -> Dict[str, Tensor]:
    """The released state dict: float32 weights, and the buffers that the released code builds itself.

    Args:
        fixture: A model's fixture.
        section: "cases": weights by the formula alone; "tame": some weights are scaled down, which keeps deep networks
            in range, and rotary angles are as constructed; "cases_constructed_angle": only the latter.
    """
    weights = {name: torch.from_numpy(fill(name, shape)).float() for name, shape in fixture["entries"]}
    tame = fixture["tame"] if section == "tame" else {}
    for suffix, factor in tame.get("scale", []):
        weights.update({name: value * factor for name, value in weights.items() if name.endswith(suffix)})
    if section == "cases_constructed_angle" or tame.get("constructed_angle"):
        for name in [name for name in weights if name.endswith(".RoPE.angle")]:
            angles = 1.0 / 10000 ** torch.linspace(0, 1, len(weights[name]) // 2)
            weights[name] = angles.repeat_interleave(2)
    for name, shape, dtype in fixture["constructed"]:
        weights[name] = torch.zeros(shape, dtype=getattr(torch, dtype))
    return weights


def assert_matches(name: str, actual: Tensor, digest: Dict[str, Any], tolerance: float) -> None:
    """Checks shape, sampled values and, for logits in float64, every value to its stored digits.

    Args:
        name: Of the tensor, for the message.
        actual: In the layout that `digest` was taken in.
        digest: What the fixture holds of the tensor.
        tolerance: Allowed deviation of a sample, in units of the tensor's standard deviation.
    """
    assert list(actual.shape) == digest["shape"], name
    flat = actual.detach().double().flatten().numpy()
    positions = np.linspace(0, flat.size - 1, len(digest["samples"])).astype(np.int64)
    error = np.abs(flat[positions] - digest["samples"]).max() / digest["std"]
    assert error <= tolerance, f"{name}: a sample is off by {error:.2e} standard deviations, allowed {tolerance:.0e}"
    assert abs(flat.mean() - digest["mean"]) <= tolerance * digest["std"], name
    if "values" in digest and actual.dtype == torch.float64:
        np.testing.assert_allclose(flat, digest["values"], rtol=0.6 * 10.0 ** (1 - STORED_DIGITS), atol=1e-12)
