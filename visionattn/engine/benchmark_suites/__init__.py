"""Suites of the operator benchmark: a file of problems per kind of operator."""

from typing import Dict, Tuple

from visionattn.engine.benchmark_suites.conv import CONV_CASES
from visionattn.engine.benchmark_suites.linear import LINEAR_CASES
from visionattn.engine.benchmark_suites.neighborhood import CPU_CASES, NA_CASES
from visionattn.engine.benchmark_suites.problem import Problem
from visionattn.engine.benchmark_suites.token_mixers import TOKEN_MIXER_CASES

__all__ = ["SUITES"]

SUITES: Dict[str, Tuple[Problem, ...]] = {
    "na": NA_CASES,
    "cpu": CPU_CASES,
    "linear": (*LINEAR_CASES, *TOKEN_MIXER_CASES),
    "conv": CONV_CASES,
}
