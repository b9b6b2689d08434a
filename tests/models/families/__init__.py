"""What the tests of all families need to know of each: one module of data per family."""

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, Iterator, Mapping, Tuple

import pytest
from torch import Tensor, nn

from tests.parity import load_fixture

Build = Tuple[str, Dict[str, Any]]  # a model's name and arguments


@dataclass(frozen=True)
class Family:
    """One family's data.

    Attributes:
        fixtures: Folder of its recorded outputs, below `tests/fixtures`.
        models: Fixture of a classification model -> how to build the model.
        taps: Called with a model in eval mode and images: every tensor that the fixtures can hold, by its name there.
        published: Variant -> parameters, billions of multiply-accumulates at the default input size.
        contract: Name of a case of the contract tests -> how to build a small model; must hold every `_test` variant.
        dense: Fixture of a dense-prediction backbone -> how to build its pyramid.
        dense_tap: Name of a map in those fixtures.
        quick: Fixtures and `published` names that the quick tests check; of a fixture the first two cases.
        slow_contract: Names in `contract` whose tracing is left to the slow tests.
        float32_tolerance: Largest deviation in float32, in standard deviations of the tensor.
        no_weight_decay: Suffixes of parameter names that the paper keeps from weight decay.
        macs_tolerance: Allowed deviation from the published multiply-accumulates, in billions.
        saved_macs: Called with a model: the multiply-accumulates that the published count has and ours has not, since
            an exact equivalence spares them.
    """

    fixtures: str
    models: Mapping[str, Build]
    taps: Callable[[nn.Module, Tensor], Dict[str, Tensor]]
    published: Mapping[str, Tuple[int, float]]
    contract: Mapping[str, Build]
    dense: Mapping[str, Build] = field(default_factory=dict)
    dense_tap: str = "out{}"
    quick: FrozenSet[str] = frozenset()
    slow_contract: FrozenSet[str] = frozenset()
    float32_tolerance: float = 1e-3
    no_weight_decay: Tuple[str, ...] = ()
    macs_tolerance: float = 5.1e-4
    saved_macs: Callable[[nn.Module], int] = lambda model: 0


def _families() -> Dict[str, Family]:
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}").FAMILY for name in modules}


FAMILIES = _families()
CONTRACT = {case: (family, build) for family in FAMILIES.values() for case, build in family.contract.items()}


def fixture_cases(kind: str, sections: Tuple[str, ...]) -> Iterator[Any]:
    """pytest parameters (family, fixture, section, index) of every recorded input of `models` or `dense`."""
    for family in FAMILIES.values():
        for name in getattr(family, kind):
            fixture = load_fixture(family.fixtures, name)
            for section in sections:
                for index in range(len(recorded_cases(fixture, section))):
                    quick = name in family.quick and (section == "tame" or index < 2)
                    marks = () if quick else pytest.mark.slow
                    yield pytest.param(family, name, section, index, marks=marks, id=f"{name}-{section}-{index}")


def recorded_cases(fixture: Dict[str, Any], section: str) -> list:
    """The recorded inputs and outputs of one section of a fixture; empty if it has no such section."""
    content = fixture.get(section, [])
    return content["cases"] if isinstance(content, dict) else content
