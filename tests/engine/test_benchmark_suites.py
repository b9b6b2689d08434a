"""The operator benchmark: what its problems say of themselves, and that contestants solve the same problem."""

import pytest
import torch

from visionattn.engine.benchmark_ops import SUITES, Floor, measure_case
from visionattn.engine.benchmark_suites.conv import CONV_CASES, ConvCase
from visionattn.engine.benchmark_suites.linear import LINEAR_CASES, LinearCase
from visionattn.engine.benchmark_suites.token_mixers import DiscCase, FlowCase, InverseCase

CPU = torch.device("cpu")


@pytest.mark.parametrize("suite", SUITES)
def test_problems_are_distinct_and_have_floors(suite):
    cases = SUITES[suite]
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert case.bytes_moved(2, training=True) > case.bytes_moved(2, training=False) > 0
        assert case.flops(training=True) > case.flops(training=False) > 0
        assert "ours" in case.contestants()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("operator", sorted({case.operator for case in LINEAR_CASES}))
def test_linear_contestants_agree(operator, channels_last):
    case = LinearCase(operator, 2, 5, 3, 8, channels_last)
    results = []
    for name in ("ours", "reference", "plain"):
        torch.manual_seed(0)
        contestant = case.contestants()[name](CPU, torch.float32)
        leaves = [x.requires_grad_() for x in contestant.leaves()]
        out = contestant.forward()
        results.append([out, *torch.autograd.grad(out, leaves, contestant.grad)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("operator", sorted({case.operator for case in CONV_CASES}))
def test_conv_contestants_agree(operator, channels_last):
    case = ConvCase(operator, 2, 3, 5, 4, channels_last)
    results = []
    for name in sorted(set(case.contestants()) - {"compiled"}):
        torch.manual_seed(0)
        contestant = case.contestants()[name](CPU, torch.float64)
        leaves = [x.requires_grad_() for x in contestant.leaves()]
        out = contestant.forward()
        results.append([out, *torch.autograd.grad(out, leaves, contestant.grad)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case", [InverseCase(2, 3, 7), FlowCase(2, 20, 3, 8), DiscCase(1, 36, 2, 8, radius=2)], ids=str
)
def test_token_mixer_contestants_agree(case):
    results = []
    for name in ("ours", "reference", "plain"):
        torch.manual_seed(0)
        contestant = case.contestants()[name](CPU, torch.float32)
        leaves = [x.requires_grad_() for x in contestant.leaves()]
        out = contestant.forward()
        results.append([out, *torch.autograd.grad(out, leaves, contestant.grad)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_measured_rows():
    case = LinearCase("linear_attention", 1, 4, 2, 8)
    rows = measure_case(case, Floor(1e10, 1e11), CPU, "float32", ("ours", "plain"), seconds=0.01)
    assert [(row["contestant"], row["pass"]) for row in rows] == [
        (name, kind) for name in ("ours", "plain") for kind in ("forward", "forward+backward")
    ]
    assert all(row["ms"] > 0 and row["over_floor"] > 0 and row["error"] is None for row in rows)
    with pytest.raises(ValueError, match="contestants must be of ours, reference, plain, compiled, got flex"):
        measure_case(case, Floor(1e10, 1e11), CPU, "float32", ("ours", "flex"))
