from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch

_FOLDER = Path(__file__).parents[2] / "fixtures" / "dinat"


@pytest.fixture
def recorded() -> Callable[[str], dict]:
    """Reads recorded tensors by file name; lists of axes come as tuples, words as strings."""

    def read(name: str) -> dict:
        result = {}
        with np.load(_FOLDER / f"{name}.npz") as file:
            for key, array in file.items():
                if array.dtype.kind == "U":
                    result[key] = str(array)
                elif array.dtype.kind in "ib" and array.ndim == 1:
                    result[key] = tuple(array.tolist())
                else:
                    result[key] = torch.from_numpy(array)
        return result

    return read


@pytest.fixture
def assert_same() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Checks that two float64 tensors differ by at most 1e-10 of the expected one's norm."""

    def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.shape == expected.shape
        masked = expected == float("-inf")
        assert torch.equal(actual == float("-inf"), masked)
        actual, expected = actual.masked_fill(masked, 0), expected.masked_fill(masked, 0)
        assert (actual - expected).norm() <= 1e-10 * expected.norm()

    return check
